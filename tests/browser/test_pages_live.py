"""Pages while things change under them, with a worker that probes in memory."""

import itertools
import json

import pytest
from playwright.sync_api import Page, expect
from served import FOUND, Look, Served
from small_job import REQUEST, changed

from autotune.hardware.sizes import format_bytes
from autotune.report.speedup import against_baseline
from autotune.service import Service
from autotune.terminal import words
from trials.contract.config import TrainingConfig
from trials.contract.messages import Estimate


@pytest.fixture
def finished(served: Served) -> str:
    with Service(served.storage) as service:
        service.submit(REQUEST)
    served.work()
    return REQUEST.name or ""


def test_the_same_form_sent_twice_is_one_job(served: Served, look: Look) -> None:
    page = look("/jobs/new")
    page.get_by_label("Model", exact=True).fill("llama-20m")
    page.get_by_label("GPUs", exact=True).fill("cpu:2")
    keys = []
    page.on("request", lambda sent: sent.url.endswith("/v1/jobs") and keys.append(sent.headers))
    page.route("**/v1/jobs", lambda route: route.abort() if len(keys) == 1 else route.continue_())
    page.get_by_role("button", name="Start the job").click()
    expect(page.locator("#wrong")).to_contain_text("does not answer", timeout=FOUND)
    page.get_by_role("button", name="Start the job").click()
    expect(page.locator("#status")).to_contain_text("queued", timeout=FOUND)
    assert len({sent["idempotency-key"] for sent in keys}) == 1


def test_a_page_lives_through_a_restart_of_the_server(served: Served, look: Look) -> None:
    with Service(served.storage) as service:
        service.submit(REQUEST)
    page = look("/jobs/job")
    expect(page.locator("#status")).to_contain_text("queued", timeout=FOUND)
    served.stop()
    expect(page.locator("#connection")).to_contain_text("Connection lost, trying again", timeout=FOUND)
    served.work()
    served.start()
    expect(page.locator("#connection")).to_be_hidden(timeout=FOUND)
    expect(page.locator("#status")).to_contain_text("finished", timeout=FOUND)
    expect(page.locator("#trials tbody tr").first).to_be_visible()


def test_cancelling_is_asked_again(served: Served, look: Look) -> None:
    with Service(served.storage) as service:
        service.submit(REQUEST)
    page = look("/jobs/job")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_contain_text("queued")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Yes, cancel it").click()
    expect(page.locator("#status")).to_contain_text("cancelled", timeout=FOUND)
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_hidden()


def test_two_jobs_are_chosen_and_compared(served: Served, look: Look, finished: str) -> None:
    with Service(served.storage) as service:
        service.submit(changed(name="other", settings={**REQUEST.settings, "sequence_length": (512,)}))
    served.work()
    page = look("/jobs")
    for name in (finished, "other"):
        page.get_by_label(f"Choose {name} to compare").check(timeout=FOUND)
    page.get_by_role("link", name="Compare").click()
    expect(page.locator("#comparison")).to_contain_text("sequences of different lengths", timeout=FOUND)
    expect(page.locator("#comparison")).to_contain_text("do not compare")


def test_jobs_are_found_by_a_part_of_their_name(served: Served, look: Look) -> None:
    with Service(served.storage) as service:
        for name in ("alpha", "beta"):
            service.submit(changed(name=name))
    page = look("/jobs")
    expect(page.locator("#list tbody tr")).to_have_count(2, timeout=FOUND)
    page.get_by_label("Name").fill("alp")
    expect(page.locator("#list tbody tr")).to_have_count(1, timeout=FOUND)
    page.get_by_label("Status").select_option("finished")
    expect(page.locator("#list")).to_contain_text("No job is like this", timeout=FOUND)


def test_pages_say_what_the_terminal_says(look: Look) -> None:
    page = look("/jobs")
    configs = [
        TrainingConfig(
            sharding="zero3", micro_batch_size=6, gradient_accumulation_steps=2, offload="optimizer"
        ),
        TrainingConfig(compile=True, adaptation="lora", lora_rank=8, base_weights="int4", precision="fp16"),
        TrainingConfig(activation_checkpointing="selective", tensor_parallel_size=4, sequence_length=8192),
    ]
    for config in configs:
        assert _called(page, "describe", config.model_dump(mode="json")) == words.describe(config)
        assert _called(page, "caveats", config.model_dump(mode="json")) == words.caveats(config)
    for low in (0.35, 1.0, 1.16):
        gain = Estimate(median=1.34, low=low, high=5.16)
        assert _called(page, "againstBaseline", gain.model_dump()) == against_baseline(gain)
    for number, power in itertools.product((1.234, 5.678, 9.871), range(6)):
        value = number * 10**power
        assert _called(page, "figure", value) == words.figure(value)
        assert _called(page, "clock", value) == words.clock(value)
        assert _called(page, "roughly", value) == words.roughly(value)
        assert _called(page, "bytes", value * 10**6) == format_bytes(int(value * 10**6))


def _called(page: Page, function: str, argument: object) -> object:
    """What a function of words.js gives."""
    call = f"words.{function}({json.dumps(argument)})"
    return page.evaluate(f"import('/assets/words.js').then((words) => {call})")
