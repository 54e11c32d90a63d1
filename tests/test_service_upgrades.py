"""A recorded job under an autotune that forecasts otherwise than the one that recorded it."""

from dataclasses import replace

import optuna
import pytest
from fakes import FakeExecutor
from small_job import REQUEST, changed, ignore, service_with

from autotune.errors import NothingFits, NothingMeasured
from autotune.jobs import JobStatus
from autotune.search import candidates
from autotune.search.events import ProbeEnded
from trials.contract.outcome import Outcome

NOTHING_FITS, FEWER_FIT = 1000.0, 6.0
"""Under the second no candidate is left that is not sharded, under 1800 MiB."""


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def upgrade(monkeypatch):
    """From now on memory is forecast to be so many times as much."""

    def to(factor):
        def forecast(*arguments):
            found = original(*arguments)
            return replace(found, reserved_bytes=(found.reserved_bytes * factor).astype(int))

        monkeypatch.setattr(candidates, "forecast", forecast)

    original = candidates.forecast
    return to


def pause_after(number):
    def listener(event):
        if isinstance(event, ProbeEnded) and event.trial == number:
            raise KeyboardInterrupt

    return listener


def started(url, request, number=2):
    with service_with(url, executor := FakeExecutor()) as service, pytest.raises(KeyboardInterrupt):
        service.tune(request, pause_after(number))
    return executor.asked


@pytest.mark.parametrize("outcome", [Outcome.MEASURED, Outcome.OUT_OF_MEMORY, Outcome.CRASHED])
def test_what_is_recorded_can_be_read(url, upgrade, tmp_path, outcome):
    def read(service):
        return service.answer("job").to_dict(), service.trials("job")

    with service_with(url, FakeExecutor(lambda config, attempt: outcome)) as service:
        try:
            service.tune(REQUEST, ignore)
        except (NothingFits, NothingMeasured):
            assert service.job("job").status == JobStatus.FAILED
        before = read(service)
        upgrade(NOTHING_FITS)
        assert read(service) == before
        if outcome == Outcome.MEASURED:
            assert service.export("job", "torchrun", tmp_path / "out")
        with pytest.raises(NothingFits):
            service.tune(changed(name="another"), ignore)


@pytest.mark.parametrize(("first", "then"), [(1, NOTHING_FITS), (1, FEWER_FIT), (FEWER_FIT, 1)])
@pytest.mark.parametrize("sampler", ["forecast_order", "tpe"])
def test_a_job_goes_on_from_where_it_was(url, upgrade, first, then, sampler):
    request = changed(sampler=sampler, ceiling="1800MiB")
    upgrade(first)
    asked = started(url, request)
    upgrade(then)
    with service_with(url, second := FakeExecutor()) as service:
        answer = service.run("job", ignore)
        rows = service.trials("job")
    assert answer.status == JobStatus.FINISHED
    assert answer.recommendation.baseline.config == asked[0] == rows[0].config
    assert len({row.config for row in rows}) == len(rows)
    assert (answer.spent.trials > len(asked)) == (then != NOTHING_FITS)
    assert second.asked


def test_the_baseline_is_the_one_that_was_chosen_first(url, upgrade):
    with service_with(url, FakeExecutor()) as service, pytest.raises(KeyboardInterrupt):
        service.tune(REQUEST, pause_after(0))
    with service_with(url, FakeExecutor()) as service:
        chosen = service.job("job").spec.chosen_baseline
        upgrade(3.0)
        assert service.run("job", ignore).recommendation.baseline.config == chosen
        assert service.job("job").spec.baseline is None


@pytest.mark.parametrize(("first", "then"), [(1, FEWER_FIT), (FEWER_FIT, 1)])
def test_a_study_keeps_its_distributions(url, upgrade, first, then):
    upgrade(first)
    started(url, changed(ceiling="1800MiB"))
    upgrade(then)
    with service_with(url, FakeExecutor()) as service:
        service.run("job", ignore)
    trials = optuna.load_study(study_name="job", storage=url).trials
    assert len(trials) > 3
    assert len({str(sorted(trial.distributions.items())) for trial in trials}) == 1
    assert ("sharding + offload" in trials[-1].distributions) == (first == 1)
