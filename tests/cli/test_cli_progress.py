"""What people see: progress that fits the screen, and answers and listings that fit its width."""

import io
import itertools
import os
import pty
from pathlib import Path

import pytest
from cli_support import Cli
from fakes import FakeExecutor
from rich.console import Console

from autotune.search.events import Event, JobStarted, ProbeEnded, ProbeStarted, Standing
from autotune.search.history import TrialRecord, TrialState
from autotune.terminal import console, progress
from autotune.terminal.live import LiveProgress
from autotune.terminal.plain import PlainProgress
from search_spaces.constraints import Rejection
from trials.contract.config import TrainingConfig
from trials.contract.messages import Estimate, ProbeResult
from trials.contract.outcome import Outcome, Phase

GIB = 2**30
CONFIGS = [
    TrainingConfig(
        sharding=sharding, precision=precision, micro_batch_size=7, activation_checkpointing=checkpointing,
        offload=offload, gradient_accumulation_steps=16, sequence_length=2048,
    )
    for sharding, precision, checkpointing, offload in itertools.product(
        ("zero2", "zero3", "zero1", "ddp"), ("bf16_pure", "fp16"), ("none", "full"), ("none", "optimizer")
    )
]  # fmt: skip
SIZES = [(80, 24), (160, 50), (100, 30)]


def told(trial: TrialRecord, repeat: int = 0, speed: float | None = None) -> ProbeEnded:
    speed = speed or trial.tokens_per_second
    estimate = Estimate(median=speed, low=speed, high=speed) if speed else None
    result = ProbeResult(
        probe_id="p",
        outcome=trial.outcome,
        phase=Phase.DONE,
        reason=trial.reason,
        tokens_per_second=estimate,
        peak_bytes=trial.peak_bytes,
    )
    return ProbeEnded(trial.number, trial.config, trial.outcome, result, repeat)


def ended_trial(number: int, outcome: Outcome = Outcome.MEASURED) -> TrialRecord:
    """The later the faster."""
    return TrialRecord(
        number,
        TrialState.COMPLETE,
        CONFIGS[number % len(CONFIGS)],
        outcome,
        100_000.0 + 1000 * number if outcome == Outcome.MEASURED else 0.0,
        peak_bytes=(20 + number) * GIB,
        reason=None if outcome == Outcome.MEASURED else "no room on rank 1",
        seconds=20.0,
    )


def standing(history: list[TrialRecord], budget: int = 40) -> Standing:
    best = max((t for t in history if t.tokens_per_second), key=lambda t: t.tokens_per_second, default=None)
    return Standing(
        tuple(history), best, history[0], budget - len(history), 20.0 * len(history), float("inf")
    )


def search(ended: int, running: int = 1, outcomes: dict[int, Outcome] | None = None) -> list[Event]:
    history = [ended_trial(n, (outcomes or {}).get(n, Outcome.MEASURED)) for n in range(ended)]
    events: list[Event] = [JobStarted("llama-3.1-8b-1", 80 * GIB, 40)]
    for n, trial in enumerate(history):
        events += [ProbeStarted(n, trial.config), told(trial), standing(history[: n + 1])]
    return events + [ProbeStarted(ended + n, CONFIGS[ended + n]) for n in range(running)]


def confirming(ended: int) -> list[Event]:
    """Winner, runner-up and baseline, two rounds and a half."""
    leaders = [ended_trial(n) for n in (ended - 1, ended - 2, 0)]
    probes = [(trial, repeat) for repeat in (1, 2, 3) for trial in leaders]
    events = search(ended, running=0)
    for trial, repeat in probes[:7]:
        events += [ProbeStarted(trial.number, trial.config, repeat), told(trial, repeat, 90_000.0 + repeat)]
    trial, repeat = probes[7]
    return [*events, ProbeStarted(trial.number, trial.config, repeat)]


def screen(events: list[Event], width: int = 80, height: int = 24) -> list[str]:
    """What is drawn after `events`."""
    out = io.StringIO()
    terminal = Console(file=out, width=width, height=height, force_terminal=True, color_system=None)
    view = LiveProgress(terminal)
    for event in events:
        view(event)
    terminal.print(view)
    return [line.rstrip() for line in out.getvalue().splitlines()]


STAGES = {
    "preparing": [],
    "first probe": search(0),
    "some trials": search(6),
    "more than fit": search(30),
    "many at once": search(20, running=8),
    "failures": search(12, outcomes=dict(enumerate([*Outcome, *Outcome][:12]))),
    "confirming": confirming(30),
}


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("stage", STAGES)
def test_progress_fits_the_screen(stage: str, width: int, height: int):
    lines = screen(STAGES[stage], width, height)
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    what_is_told_elsewhere = ("autotune ·", "            trial ")
    assert not any(line.endswith("…") for line in lines if not line.startswith(what_is_told_elsewhere))


def test_it_says_what_happens_before_the_job_is_there():
    assert "preparing" in "\n".join(screen([]))


def test_it_names_the_best_so_far_what_it_needs_and_what_is_left():
    lines = "\n".join(screen(search(6), width=120))
    assert "llama-3.1-8b-1 · ceiling 80.00 GiB per device" in lines
    assert "105,000 tokens/s, 1.05× the baseline" in lines
    assert "trial 5: zero2 fp16 micro-batch 7 × 16 offload optimizer length 2048" in lines
    assert "25.00 GiB of 80.00 GiB" in lines
    assert "6 of at most 40" in lines
    # 34 trials and 9 confirmations of 20 s each
    assert "2 min 00 s spent, about 14 min to go" in lines


def test_the_latest_trials_stay_when_there_is_no_room_for_all():
    lines = screen(search(30))
    assert any("earlier" in line for line in lines)
    rows = [line.split()[0] for line in lines if line[:5].strip().isdigit()]
    assert rows[-2:] == ["29", "30"]
    assert rows == [str(n) for n in range(int(rows[0]), 31)]
    assert len(rows) > 8


@pytest.mark.parametrize("outcome", [o for o in Outcome if o not in (Outcome.MEASURED, Outcome.OUTPACED)])
def test_a_trial_without_a_figure_says_what_became_of_it(outcome: Outcome):
    (row,) = [
        line for line in screen(search(2, running=0, outcomes={1: outcome})) if line.startswith("    1")
    ]
    assert outcome.replace("_", " ") in row


def test_what_runs_is_shown_with_its_seconds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("autotune.terminal.live.time.monotonic", lambda: 0.0)
    out = io.StringIO()
    view = LiveProgress(Console(file=out, width=80, height=24))
    for event in search(2):
        view(event)
    monkeypatch.setattr("autotune.terminal.live.time.monotonic", lambda: 83.2)
    Console(file=out, width=80, height=24).print(view)
    (row,) = [line for line in out.getvalue().splitlines() if "probing" in line]
    assert row.split()[0] == "2"
    assert row.split()[-2:] == ["83", "s"]


def test_what_is_not_tried_is_said_once_above_the_display():
    left_out = (Rejection("memory", "the forecast peak is beyond the usable 40.00 GiB", 1234),)
    job = JobStarted("job", 80 * GIB, 40, 12, left_out, ("left out auto_map, which would run code",))
    lines = screen([job, *search(3)[1:]])
    assert lines[:2] == [
        "  left out 1,234: the forecast peak is beyond the usable 40.00 GiB",
        "  note: left out auto_map, which would run code",
    ]
    assert any("3 of at most 12" in line for line in lines)


def test_many_probes_at_once_are_counted():
    lines = "\n".join(screen(search(5, running=8)))
    assert lines.count("probing") == 4
    assert "and 4 more are being probed" in lines


def test_confirmations_are_a_table_of_their_own():
    lines = screen(confirming(30), width=120)
    start = next(n for n, line in enumerate(lines) if "confirmed" in line)
    rows = {line.split()[0]: line for line in lines[start + 1 : start + 4]}
    assert list(rows) == ["0", "28", "29"]
    assert "2 of 3  probing" in rows["28"]
    assert "3 of 3" in rows["29"]
    assert "7 of 9 further probes of the leaders" in "\n".join(lines)


def test_how_far_a_probe_came_that_crashed_is_no_peak():
    out = io.StringIO()
    PlainProgress(Console(file=out, width=150))(told(ended_trial(1, Outcome.CRASHED)))
    assert "peak" not in out.getvalue()


def test_one_is_not_called_several():
    out = io.StringIO()
    PlainProgress(Console(file=out, width=150))(JobStarted("job", 80 * GIB, 1, candidates=1))
    assert out.getvalue() == "job job: at most 1 trial under 80.00 GiB per device, 1 candidate\n"


def test_elsewhere_than_on_a_terminal_it_is_a_line_per_probe():
    out = io.StringIO()
    view = PlainProgress(Console(file=out, width=150))
    for event in [*search(3, running=0, outcomes={1: Outcome.OUT_OF_MEMORY}), told(ended_trial(2), 1, 99.5)]:
        view(event)
    assert out.getvalue().splitlines() == [
        "job llama-3.1-8b-1: at most 40 trials under 80.00 GiB per device",
        "trial 0: 100,000 tokens/s, peak 20.00 GiB [zero2 bf16_pure micro-batch 7 × 16 length 2048]",
        "  best so far, the baseline itself; 39 trials left",
        "trial 1: out of memory, peak 21.00 GiB [zero2 bf16_pure micro-batch 7 × 16 offload optimizer length "
        "2048]: no room on rank 1",
        "trial 2: 102,000 tokens/s, peak 22.00 GiB [zero2 bf16_pure micro-batch 7 × 16 checkpointing full "
        "length 2048]",
        "  best so far, 1.02× the baseline; 37 trials left",
        "trial 2, confirmation 1 of 3: 99.5 tokens/s, peak 22.00 GiB [zero2 bf16_pure micro-batch 7 × 16 "
        "checkpointing full length 2048]",
    ]


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({"TERM": "xterm"}, LiveProgress),
        ({"TERM": "xterm", "NO_COLOR": "1"}, LiveProgress),
        ({"TERM": "dumb"}, PlainProgress),
    ],
)
def test_it_draws_where_the_terminal_can(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], kind: type
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert isinstance(listener_on_a_terminal(), kind)


def test_forced_colours_do_not_make_a_log_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr("sys.stdout", log)
        with progress(console()) as listener:
            assert isinstance(listener, PlainProgress)


def listener_on_a_terminal() -> object:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal, progress(Console(file=terminal, width=80, height=24)) as listener:
        pass
    os.close(master)
    return listener


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize(
    "words", ["models", "gpus", "spaces", "jobs", "trials recorded", "trials hopeless", "show recorded"]
)
@pytest.mark.usefixtures("recorded")
def test_a_view_is_as_wide_as_the_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch, words: str, width: int):
    monkeypatch.setenv("COLUMNS", str(width))
    ended = cli(*words.split())
    assert ended.code == 0
    lines = [line.rstrip() for line in ended.out.splitlines()]
    assert max(map(len, lines)) <= width
    assert "…" not in ended.out
    assert "\x1b" not in ended.out


def test_an_empty_database_says_how_to_begin(cli: Cli):
    assert "autotune tune MODEL" in cli("jobs").out


@pytest.mark.usefixtures("recorded")
def test_jobs_say_how_far_they_are(cli: Cli):
    lines = cli("jobs").out.splitlines()
    rows = {words[0]: words for words in map(str.split, lines[1:]) if words[0] in ("recorded", "hopeless")}
    assert all("8/8" in words for words in rows.values())
    assert len(rows) == 2


@pytest.mark.usefixtures("recorded")
def test_an_answer_says_how_to_use_it_where_there_is_something_to_use(cli: Cli):
    shown = cli("show", "recorded").out
    assert "autotune export recorded --to deepspeed|accelerate|torchrun --output DIR" in shown
    assert "hours" not in shown
    assert "--to" not in cli("show", "hopeless").out


@pytest.mark.usefixtures("recorded")
def test_trials_say_why_they_have_no_figure(cli: Cli):
    assert "non finite: scripted non_finite" in cli("trials", "hopeless").out


def test_who_stops_reading_stops_the_search_and_leaves_the_job_to_be_resumed(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
):
    def gone(view: PlainProgress, event: Event) -> None:
        if isinstance(event, ProbeEnded):
            raise BrokenPipeError

    monkeypatch.setattr(PlainProgress, "__call__", gone)
    monkeypatch.setattr("autotune.service.EXECUTORS", {"local": lambda layout, address: FakeExecutor()})
    ended = cli("tune", "tiny.json", "--gpus", "cpu:2", "--executor", "local", "--name", "watched")
    assert ended.code == 130
    assert ended.sentence == "interrupted; `autotune resume watched` goes on"
    (job,) = cli("jobs", "--json").json["jobs"]
    assert job["status"] == "paused"
