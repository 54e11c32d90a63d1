"""What the page of a job says, held against itself and against the answer."""

import threading
from typing import Any

from fakes import FakeExecutor, speed_of
from playwright.sync_api import Page, expect
from served import FOUND, Look, Served
from small_job import REQUEST, changed

from autotune.search.events import Event, ProbeStarted
from autotune.service import Service
from autotune.terminal.words import figure
from trials.contract.config import TrainingConfig

SOME_SECONDS_MS = 2500
DRAWN = "[...document.getElementById('chart').data]"


def flattering(share: float) -> FakeExecutor:
    """Whose first probe of a configuration is faster than all that follow, which make a share of that."""
    return FakeExecutor(speed=lambda config, n: speed_of(config) * (1.0 if n == 1 else share))


def shaking() -> FakeExecutor:
    """Micro-batch 3 is the fastest, as far as can be told: the next probe of anything may say otherwise."""
    shares = {2: (0.5, 1.6), 3: (1.0, 1.0), 4: (1.6, 0.5)}

    def speed(config: TrainingConfig, n: int) -> float:
        is_best = config.micro_batch_size == 3
        return (1500.0 if is_best else 1000.0) * shares.get(n, (1.0, 1.0))[not is_best]

    return FakeExecutor(speed=speed)


def points(page: Page, name: str) -> list[list[float]]:
    """Where the marks of a kind stand, as tokens/s over memory."""
    found: list[list[float]] = page.evaluate(
        f"{DRAWN}.filter((trace) => trace.name === {name!r}).flatMap((trace) => "
        "trace.x.map((x, index) => [x, trace.y[index]]))"
    )
    return found


def test_headline_chart_and_table_say_the_same_of_the_recommended(served: Served, look: Look) -> None:
    with Service(served.storage) as service:
        service.submit(REQUEST)
        served.work(flattering(0.6))
        answer = service.answer("job")
    chosen = answer.recommendation
    assert chosen is not None
    page = look("/jobs/job")
    speed = chosen.tokens_per_second.median
    expect(page.locator("#best .headline")).to_contain_text(figure(speed), timeout=FOUND)
    row = page.locator("#trials tr.best")
    expect(row).to_contain_text(figure(speed), timeout=FOUND)
    expect(row).to_contain_text(f"first probe {figure(speed_of(chosen.config))}", timeout=FOUND)
    ring: list[Any] = page.evaluate(f"{DRAWN}.find((trace) => trace.marker?.size === 21).y")
    assert ring == [speed]
    baseline = chosen.baseline.tokens_per_second
    assert baseline is not None
    assert {speed, baseline.median} <= {y for _, y in points(page, "measured")}


def test_what_may_be_chance_is_no_gain(served: Served, look: Look) -> None:
    with Service(served.storage) as service:
        service.submit(REQUEST)
    served.work(shaking())
    page = look("/jobs/job")
    expect(page.locator("#best")).to_contain_text("Not surely faster than the baseline (1", timeout=FOUND)
    expect(page.locator("#best .gain")).to_have_count(0, timeout=FOUND)
    expect(page.locator("#why")).to_contain_text("Not surely faster than the baseline (1", timeout=FOUND)
    page.goto(f"{served.url}/jobs")
    expect(page.locator("#list td.dim")).to_contain_text("×", timeout=FOUND)


def test_one_that_was_stopped_early_and_then_confirmed_is_measured(look: Look) -> None:
    page = look("/jobs")
    told = """(given) => import('/assets/trial.js').then(
        (trial) => [trial.outcomeOf(given), trial.reasonOf(given)])"""
    for is_confirmed, expected in ((True, ["measured", None]), (False, ["outpaced", "too slow"])):
        trial = {"outcome": "outpaced", "is_confirmed": is_confirmed, "reason": "too slow"}
        assert page.evaluate(told, trial) == expected


def test_a_job_from_a_terminal_is_told_as_it_happens(served: Served, look: Look) -> None:
    """It waits with its second trial until the page has shown that one."""
    page = look("/jobs")
    is_shown = threading.Event()

    def wait(event: Event) -> None:
        if isinstance(event, ProbeStarted) and event.trial == 1:
            is_shown.wait(FOUND / 1000)

    driving = threading.Thread(target=served.tune, args=(REQUEST, FakeExecutor(), wait))
    driving.start()
    try:
        page.goto(f"{served.url}/jobs/job")
        expect(page.locator("#trials tr.now")).to_contain_text("runs", timeout=FOUND)
        expect(page.locator("#space")).to_contain_text("candidates of the space", timeout=FOUND)
        page.locator("#trials tr", has_text="the baseline").evaluate("(row) => { row.isTheSame = true; }")
        page.wait_for_timeout(SOME_SECONDS_MS)
        assert page.locator("#trials tr", has_text="the baseline").evaluate("(row) => row.isTheSame")
    finally:
        is_shown.set()
        driving.join()
    expect(page.locator("#status")).to_contain_text("finished", timeout=2000)


def test_a_ceiling_far_away_leaves_the_chart_to_what_was_measured(served: Served, look: Look) -> None:
    with Service(served.storage) as service:
        service.submit(changed(ceiling="9GiB"))
    served.work()
    page = look("/jobs/job")
    expect(page.locator("#chart")).to_contain_text("ceiling 9.00 GiB →", timeout=FOUND)
    _, right = page.evaluate("document.getElementById('chart').layout.xaxis.range")
    assert right < 0.6 * 9


def test_what_is_kept_of_a_trial_is_shown_with_it(served: Served, look: Look) -> None:
    with Service(served.storage) as service:
        service.submit(REQUEST)
    served.work()
    page = look("/jobs/job")
    fold = page.locator("#trials tr.best details")
    fold.locator("summary").click(timeout=FOUND)
    expect(fold).to_contain_text("measured in phase done", timeout=FOUND)


def test_jobs_that_wait_say_behind_how_many(served: Served, look: Look) -> None:
    with Service(served.storage) as service:
        for name in ("a", "b", "c"):
            service.submit(changed(name=name))
    page = look("/jobs/c")
    expect(page.locator("#status")).to_contain_text("2 jobs before it", timeout=FOUND)
