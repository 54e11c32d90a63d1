"""What a finished job draws, for people and for the Optuna dashboard."""

import json

import optuna
import pytest
from fakes import FakeExecutor
from small_job import REQUEST, changed, ignore, service_with

from autotune.errors import BadInput, NothingMeasured
from autotune.report.job_plots import PLOTS
from trials.contract.outcome import Outcome


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """One job, of which some ran out of memory."""
    url = f"sqlite:///{tmp_path_factory.mktemp('plots') / 'jobs.db'}"

    def outcome_of(config, attempt):
        too_large = config.micro_batch_size == 4 and config.sharding == "ddp"
        return Outcome.OUT_OF_MEMORY if too_large else Outcome.MEASURED

    with service_with(url, FakeExecutor(outcome_of)) as service:
        service.tune(changed(trials=20, stop_below=0.0), ignore)
    return url


def test_each_plot_is_a_file_that_stands_alone(url, tmp_path):
    (tmp_path / "file").write_text("")
    with service_with(url, FakeExecutor()) as service:
        written = service.save_plots("job", tmp_path / "plots")
        with pytest.raises(BadInput, match="cannot write plots to"):
            service.save_plots("job", tmp_path / "file")
    assert [path.stem for path in written] == list(PLOTS)
    for path in written:
        text = path.read_text()
        assert "job: " in text
        assert 'src="http' not in text


def on_dashboard(url):
    """The note of the job's study, and the names of the plots that it lacks."""
    study = optuna.load_study(study_name="job", storage=url)
    kept = study._storage.get_study_system_attrs(study._study_id)
    note = "".join(value for key, value in sorted(kept.items()) if "note" in key and isinstance(value, str))
    return note, [name for name in PLOTS if not any(name in json.dumps(key) for key in kept)]


def test_the_dashboard_has_a_note_and_the_plots(url):
    note, lacking = on_dashboard(url)
    assert "# job" in note
    assert "tokens/s" in note
    assert not lacking


def test_the_dashboard_has_them_of_a_job_that_was_interrupted(tmp_path):
    url = f"sqlite:///{tmp_path / 'jobs.db'}"

    def outcome_of(config, attempt):
        if len(executor.asked) > 3:
            raise KeyboardInterrupt
        return Outcome.MEASURED

    executor = FakeExecutor(outcome_of)
    with service_with(url, executor) as service, pytest.raises(KeyboardInterrupt):
        service.tune(REQUEST, ignore)
    note, lacking = on_dashboard(url)
    assert "tokens/s" in note
    assert "autotune resume" in note
    assert not lacking


def test_each_length_has_its_own_front_and_best_so_far(tmp_path):
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    lengths = {**REQUEST.settings, "sequence_length": (64, 128)}
    with service_with(url, FakeExecutor()) as service:
        answer = service.tune(changed(settings=lengths, trials=12), ignore)
        shown = service._record.picture(service.job("job"))
    assert [row.evidence for row in answer.by_length] == ["confirmed", "confirmed"]
    for name, line in (("speed_over_memory", "front"), ("history", "best so far")):
        lines = [trace.name for trace in PLOTS[name](shown).data if trace.mode == "lines"]
        assert lines == [f"{line}, length 64", f"{line}, length 128"]


def test_the_plots_show_every_trial(url):
    with service_with(url, FakeExecutor()) as service:
        rows = service.trials("job")
        shown = service._record.picture(service.job("job"))
    assert [trial.number for trial in shown.trials] == [row.number for row in rows]
    assert any(trial.outcome == Outcome.OUT_OF_MEMORY for trial in shown.trials)
    drawn = {name: draw(shown) for name, draw in PLOTS.items()}
    points = sum(len(trace.x) for trace in drawn["speed_over_memory"].data if trace.mode == "markers")
    assert points == len(rows)
    best = next(trace for trace in drawn["history"].data if trace.name == "best so far")
    assert list(best.y) == sorted(best.y)
    assert max(best.y) == max(t.tokens_per_second for t in shown.trials if shown.fits(t))
    bars = sum(len(trace.x) for trace in drawn["knobs"].data)
    assert bars == sum(
        step.speed_change is not None for knob in shown.explanation.knobs for step in knob.steps
    )


def test_a_job_without_a_recommendation_can_be_drawn(tmp_path):
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    with service_with(url, FakeExecutor(lambda config, n: Outcome.NON_FINITE)) as service:
        with pytest.raises(NothingMeasured, match="nothing could be measured"):
            service.tune(REQUEST, ignore)
        note, lacking = on_dashboard(url)
        assert "Nothing is recommended: nothing could be measured" in note
        assert not lacking
        assert service.save_plots("job", tmp_path / "plots")
