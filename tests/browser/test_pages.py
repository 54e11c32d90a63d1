"""The main job in a browser: ask, watch, open the study, take the files."""

import io
import json
import zipfile

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.timeout(600)


def submit(page: Page, server: str, name: str) -> None:
    """A small job, by the form, once the forecast has said that something fits."""
    page.goto(f"{server}/jobs/new")
    page.fill("#model", "llama-20m")
    page.fill("#gpus", "cpu:1")
    page.fill("#ceiling", "1500MiB")
    page.fill("#trials", "3")
    page.click("#more summary")
    page.fill("#name", name)
    page.fill("#settings", "sequence_length=64\nmicro_batch_size=1,2,4\nprecision=fp32,bf16")
    page.fill("#probe_seconds", "1")
    expect(page.locator("#forecast-status")).to_contain_text("legal configurations")
    page.click("#submit")
    page.wait_for_url(f"{server}/jobs/{name}")


def test_a_job_from_the_form_to_its_files(page: Page, server: str) -> None:
    submit(page, server, "from-the-form")
    expect(page.locator("h1")).to_contain_text("from-the-form")
    expect(page.locator("#trials tbody tr").first).to_be_visible()
    expect(page.locator("#chart .scatterlayer").first).to_be_attached()
    expect(page.locator("#status")).to_contain_text("finished")
    expect(page.locator("#trials")).to_contain_text("measured")
    expect(page.locator("#best")).to_contain_text("tokens/s")
    expect(page.locator("#steps-card")).to_be_visible()

    with page.expect_download() as downloading:
        page.locator("#use a[download]", has_text="deepspeed").or_(
            page.locator("#use a[href$='/exports/deepspeed']")
        ).first.click()
    archive = zipfile.ZipFile(io.BytesIO(downloading.value.path().read_bytes()))
    configuration = next(name for name in archive.namelist() if name.endswith(".json"))
    assert json.loads(archive.read(configuration))["train_micro_batch_size_per_gpu"] >= 1


def test_the_study_opens_in_the_dashboard(page: Page, server: str) -> None:
    page.goto(f"{server}/jobs/from-the-form")
    page.click("#study")
    page.wait_for_url("**/dashboard/studies/**")
    expect(page.get_by_text("from-the-form").first).to_be_visible()


def test_what_is_wrong_stands_beside_its_field(page: Page, server: str) -> None:
    page.goto(f"{server}/jobs/new")
    page.fill("#model", "llama-20m")
    page.fill("#gpus", "H1000:8")
    expect(page.locator("#error-gpus")).to_contain_text("H1000")


@pytest.mark.parametrize("path", ["/jobs", "/jobs/new", "/jobs/from-the-form"])
def test_it_can_be_read_on_a_phone(page: Page, server: str, path: str) -> None:
    page.set_viewport_size({"width": 375, "height": 800})
    page.goto(f"{server}{path}")
    page.wait_for_load_state("networkidle") if path != "/jobs/from-the-form" else page.wait_for_timeout(1500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
