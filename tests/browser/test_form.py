"""The form where a job is asked for, while it is being filled in."""

import json

import pytest
from playwright.sync_api import Page, expect
from served import FOUND, Look

PAUSE_MS = 400
"""After the last key, until a forecast is asked for."""


@pytest.fixture
def form(look: Look) -> Page:
    """With a model for which there is a forecast."""
    page = look("/jobs/new")
    page.fill("#model", "llama-20m")
    page.fill("#gpus", "cpu:1")
    expect(page.locator("#forecast-status")).to_contain_text("legal configurations", timeout=FOUND)
    return page


def test_what_is_wrong_stays_until_its_field_is_mended(form: Page) -> None:
    form.fill("#trials", "0")
    form.press("#trials", "Enter")
    expect(form.locator("#error-trials")).to_contain_text("greater than or equal to 1", timeout=FOUND)
    with form.expect_response("**/v1/plans"):
        form.fill("#headroom", "6")
    form.wait_for_timeout(PAUSE_MS)
    expect(form.locator("#error-trials")).to_be_visible(timeout=FOUND)
    form.fill("#trials", "1")
    expect(form.locator("#error-trials")).to_be_hidden(timeout=FOUND)


def test_no_forecast_that_was_asked_before_speaks_after_a_submission(form: Page) -> None:
    form.fill("#trials", "0")
    form.fill("#headroom", "150")
    form.press("#headroom", "Enter")
    expect(form.locator("#error-headroom")).to_contain_text("less than 100 %", timeout=FOUND)
    form.wait_for_timeout(3 * PAUSE_MS)
    expect(form.locator("#error-trials")).to_be_visible(timeout=FOUND)


@pytest.mark.parametrize(
    ("field", "typed", "told"),
    [
        ("sequence_length", "0", "0 lies outside"),
        ("ceiling", "22", "22GiB"),
        ("ceiling", "9000GiB", "is more than the"),
        ("gpus", "H100:0", "there must be 1 to"),
    ],
)
def test_a_forecast_that_cannot_be_made_says_why_beside_its_field(
    form: Page, field: str, typed: str, told: str
) -> None:
    form.fill(f"#{field}", typed)
    expect(form.locator(f"#error-{field}")).to_contain_text(told, timeout=FOUND)
    expect(form.locator(f"#error-{field}")).not_to_contain_text("Value error", timeout=FOUND)
    expect(form.locator("#forecast-status")).to_contain_text(told, timeout=FOUND)
    expect(form.locator("#forecast-status")).to_contain_text("of the form as it was before", timeout=FOUND)
    expect(form.locator("#forecast")).to_have_class("stale", timeout=FOUND)


def test_what_is_wrong_with_a_file_stands_beside_it(form: Page) -> None:
    given = {"name": "config.json", "mimeType": "application/json", "buffer": b"{"}
    form.set_input_files("#file", given)
    expect(form.locator("#error-file")).to_contain_text("no JSON of a model", timeout=FOUND)
    given["buffer"] = json.dumps({"model_type": "llama", "hidden_size": "a"}).encode()
    form.set_input_files("#file", given)
    expect(form.locator("#error-file")).to_be_hidden(timeout=FOUND)
    expect(form.locator("#error-model_name")).to_contain_text("must be a whole number", timeout=FOUND)


def test_adapters_that_nobody_asked_for_are_said_to_be_that(form: Page) -> None:
    form.fill("#model", "llama-3.1-70b")
    form.fill("#gpus", "H100:2")
    expect(form.locator("#forecast .notice").first).to_contain_text(
        "Full fine-tuning does not fit; these are LoRA", timeout=FOUND
    )
