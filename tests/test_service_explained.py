"""Why a job's recommendation is what it is."""

import re

import pytest
from fakes import FakeExecutor, speed_of
from small_job import REQUEST, changed, ignore, service_with

from autotune.errors import NoSuchJob
from trials.contract.config import TrainingConfig
from trials.contract.outcome import Outcome


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'jobs.db'}"


def test_an_explanation_says_what_each_choice_would_cost(url):
    with service_with(url, FakeExecutor()) as service:
        answer = service.tune(REQUEST, ignore)
        found = service.explain("job")
        with pytest.raises(NoSuchJob):
            service.explain("other")
    assert [knob.field for knob in found.knobs] == list(REQUEST.settings)
    sizes, precision, *_ = found.knobs
    assert (sizes.value, [step.value for step in sizes.steps]) == (4, [3])  # there is none larger
    assert precision.steps[0].speed_change < -0.3  # fp32 takes twice as long
    for knob in found.knobs:
        for step in knob.steps:
            assert step.source in ("measured", "forecast")
            assert (step.speed_change is None) == (step.tokens_per_second is None)
    assert sum(found.bounds.seconds.values()) == pytest.approx(
        answer.recommendation.config.tokens_per_step(2) / found.tokens_per_second.median
    )
    assert found.cost.seconds == answer.spent.seconds
    assert answer.recommendation.speedup.median == 1.0  # the baseline itself, so there is nothing to save
    assert found.cost.pays_after_hours is None


def test_an_explanation_says_when_the_search_has_paid_for_itself(url):
    slow = TrainingConfig(**{field: values[0] for field, values in REQUEST.settings.items()})
    with service_with(url, FakeExecutor()) as service:
        answer = service.tune(changed(baseline=slow), ignore)
        found = service.explain("job")
    gain = answer.recommendation.speedup.median
    assert gain > 1.2
    assert found.cost.pays_after_hours == pytest.approx(answer.spent.seconds / 3600 / (gain - 1))
    assert found.baseline_steps


def test_others_that_were_probed_lost_for_a_reason(url):
    sizes = {**REQUEST.settings, "micro_batch_size": (1, 2, 3, 4, 5, 6)}
    with service_with(url, _out_of_memory_from(5)) as service:
        answer = service.tune(changed(settings=sizes, trials=100, stop_below=0.0), ignore)
        found = service.explain("job")
    chosen, rows = found.config, {row.trial: row for row in answer.alternatives}
    slower = [rival for rival in found.rivals if rival.tokens_per_second is not None]
    too_large = [rival for rival in found.rivals if rival.tokens_per_second is None]
    assert slower
    assert [rival.trial for rival in slower] == list(rows)[: len(slower)]
    for rival in slower:
        assert rival.config == rows[rival.trial].config
        assert rival.changes
        share = rival.tokens_per_second.median / found.tokens_per_second.median
        if share == 1:  # this executor's figures have no noise
            assert "as fast" in rival.why_not
            continue
        told = re.match(r"([\d.]+)% slower", rival.why_not)
        assert told is not None
        assert float(told[1]) == pytest.approx(100 * (1 - share), abs=0.5)
    assert too_large
    for rival in too_large:
        assert rival.config.micro_batch_size > chosen.micro_batch_size
        assert "ran out of memory; the forecast has it" in rival.why_not


def test_a_gain_that_may_be_none_pays_for_nothing(url):
    """The baseline's figure varies by more than what lies between it and the winner."""
    slow = TrainingConfig(**{field: values[0] for field, values in REQUEST.settings.items()})

    def speed(config, attempt):
        is_baseline = config.micro_batch_size == 1
        return speed_of(config) * ((1.0, 0.5, 1.0, 4.0)[(attempt - 1) % 4] if is_baseline else 1.0)

    with service_with(url, FakeExecutor(speed=speed)) as service:
        service.tune(changed(baseline=slow), ignore)
        found = service.explain("job")
    assert found.speedup.low < 1 < found.speedup.median
    assert found.cost.pays_after_hours is None


def test_what_does_not_fit_says_so_in_an_explanation(url):
    """Four sequences are the most that the ceiling allows, and five would be faster."""
    sizes = {**REQUEST.settings, "micro_batch_size": (1, 2, 3, 4, 5, 6)}
    with service_with(url, _out_of_memory_from(5)) as service:
        service.tune(changed(settings=sizes, trials=100, stop_below=0.0), ignore)
        found = service.explain("job")
    assert found.bounds.bound == "memory"
    assert "micro_batch_size=5" in found.bounds.reason
    larger = found.knobs[0].steps[-1]
    assert (larger.value, larger.fits) == (5, False)


def test_a_larger_size_that_promises_more_is_said_to_do_so(url):
    sizes = {**REQUEST.settings, "micro_batch_size": (1, 2, 3, 4, 5, 6)}
    with service_with(url, FakeExecutor()) as service:
        service.tune(changed(settings=sizes, trials=1, ceiling="6GiB"), ignore)
        found = service.explain("job")
    larger = found.knobs[0].steps[-1]
    assert larger.fits
    assert larger.speed_change > 0
    assert "a larger micro-batch promises" in found.bounds.reason
    assert "forecasts are rough: fewer than 3" in found.notes[0]


def _out_of_memory_from(size: int) -> FakeExecutor:
    return FakeExecutor(
        lambda config, n: Outcome.OUT_OF_MEMORY if config.micro_batch_size >= size else Outcome.MEASURED
    )
