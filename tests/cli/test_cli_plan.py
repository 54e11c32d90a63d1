"""`autotune plan` as people and scripts call it."""

from io import StringIO

import jsonschema
import pytest
from cli_support import Cli
from rich.console import Console
from test_cli_json import CONFIG, COUNT, NUMBER, TEXT, among, each, or_null

from autotune.hardware.sizes import format_bytes
from autotune.planner import plan
from autotune.request import PlanRequest
from autotune.terminal.plans import plan_view
from autotune.terminal.words import figure

PARTS = ("weights", "gradients", "master", "optimizer", "activations", "transient", "fixed")
PLAN = among(
    {
        "candidates": COUNT,
        "fitting": COUNT,
        "ranked": {
            "type": "array",
            "items": among(
                {
                    "config": CONFIG, "world_size": COUNT, "tokens_per_second": NUMBER, "step_s": NUMBER,
                    "mfu": or_null(NUMBER), "peak_bytes": COUNT, "reserved_bytes": COUNT,
                    "memory": among(dict.fromkeys(PARTS, COUNT)),
                }
            ),
        },
        "rejected": each(among({"code": TEXT, "reason": TEXT, "count": COUNT})),
    }
)  # fmt: skip


def test_json_is_of_the_published_shape(cli: Cli):
    ended = cli("plan", "llama-3.1-70b", "--gpus", "2x8xA100-80GB", "--top", 3, "--json")
    jsonschema.validate(ended.json, PLAN)
    assert len(ended.json["ranked"]) == 3


def test_a_person_sees_rows_and_reasons(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "160")
    ended = cli("plan", "llama-3.1-8b", "--gpus", "4090:1", "--ceiling", "22GiB")
    assert ended.code == 0
    for words in (
        "tokens/s",
        "of the ceiling",
        "int4",
        "adaptation lora",
        "left out",
        "mind",
    ):
        assert words in ended.out


def test_nothing_fits_is_3_with_what_comes_nearest(cli: Cli):
    ended = cli("plan", "llama-3.1-405b", "--gpus", "H100:1", "--space", "single_gpu")
    assert ended.code == 3
    assert "nothing fits; what needs least" in ended.out
    assert "more per GPU would do" in ended.err
    assert ended.err.count("\n") == 1


def test_a_gpu_without_bf16_is_told_what_comes_nearest(cli: Cli):
    ended = cli("plan", "llama-3.1-70b", "--gpus", "T4:1", "--set", "offload=none")
    assert ended.code == 3
    assert "fp16" in ended.out
    assert "more per GPU would do" in ended.err


def test_an_explanation_has_phases_and_parts(cli: Cli):
    words = (
        "plan",
        "llama-3.1-8b",
        "--gpus",
        "H100:8",
        "--explain",
        "micro_batch_size=1,precision=bf16_pure",
    )
    found = cli(*words, "--json").json
    assert set(found["phases"]) == {"forward", "loss", "layers", "embedding", "step"}
    assert set(found["phases"]["loss"]) == set(PARTS)
    shown = cli(*words)
    assert shown.code == 0
    assert "activations" in shown.out
    assert "backward" in shown.out


def test_the_plot_is_written(cli: Cli, tmp_path):
    ended = cli("plan", "llama-3.1-8b", "--gpus", "H100:8", "--plot", tmp_path / "plan.html")
    assert ended.code == 0
    assert (tmp_path / "plan.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--explain", "tensor_parallel_sise=2"], "tensor_parallel_size"),
        (["--explain", "micro_batch_size"], "sets nothing"),
        (["--set", "micro_batch_size=0"], "micro_batch_size"),
        (["--space", "tree_d"], "three_d"),
        (["--headroom", "200%"], "not a share"),
        (["--plot", "/nowhere/plan.html"], "cannot be written"),
    ],
)
def test_bad_input_is_2_and_named(cli: Cli, words, sentence):
    ended = cli("plan", "llama-3.1-8b", "--gpus", "H100:8", *words)
    assert ended.code == 2
    assert sentence in ended.sentence


@pytest.mark.parametrize("option", [("--plot", "plan.html"), ("--trace", 1)])
def test_an_explanation_neither_plots_nor_traces(cli: Cli, option):
    ended = cli("plan", "llama-3.1-8b", "--gpus", "H100:8", "--explain", "micro_batch_size=1", *option)
    assert ended.code == 2
    assert "leave out --plot and --trace" in ended.err


def test_an_explanation_tells_what_goes_to_the_cpu(cli: Cli):
    ended = cli("plan", "llama-3.1-8b", "--gpus", "H100:8", "--explain", "sharding=zero2,offload=optimizer")
    assert ended.code == 0
    assert "to the CPU memory of each node" in ended.out


def test_rows_tell_what_they_take_of_the_cpus_memory(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "160")
    words = ("plan", "llama-3.1-70b", "--gpus", "4090:2", "--space", "lora", "--top", 3)
    needed = cli(*words, "--json").json["ranked"][0]["host_bytes"]
    shown = cli(*words).out
    assert "CPU memory" in shown
    assert f"{needed / 2**30:.2f} GiB" in shown
    assert "CPU memory" not in cli("plan", "llama-3.1-8b", "--gpus", "H100:8", "--set", "offload=none").out


NODE, CARD = ("llama-3.1-8b", "h100:8"), ("llama-3.1-8b", "4090:1")


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize(
    "words",
    [
        NODE,
        CARD,
        ("llama-3.1-70b", "4090:2"),
        (*NODE, "--explain", "micro_batch_size=2,sharding=fsdp"),
        (*NODE, "--explain", "sharding=zero2,offload=optimizer"),
    ],
    ids=" ".join,
)
def test_no_value_is_cut_off(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], width: int
) -> None:
    """Where there is little room, names are shorter; where there is less, bars are, or are left out."""
    monkeypatch.setenv("COLUMNS", str(width))
    model, gpus, *more = words
    ended = cli("plan", model, "--gpus", gpus, *more)
    assert "…" not in ended.out
    lines = ended.out.splitlines()
    assert not any(line.rstrip().endswith("█") for line in lines), "a colour without its name"
    if "--explain" in more:
        assert all(any(line.startswith(phase) for line in lines) for phase in ("phase", "forward", "step"))
    else:
        assert "█ weights" in ended.out or width == 80


@pytest.mark.parametrize("width", [80, 100])
def test_figures_are_whole_where_names_are_not(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """With what was traced, and several groups of nodes, there is more to show than room."""
    found = plan(PlanRequest("llama-3.1-8b", "4090:1", top=2))
    rows = [
        row.model_copy(update={"traced_bytes": 20 * 2**30, "gpus": gpus})
        for row, gpus in zip(found.ranked, ("4 × A100-80GB-SXM", "1 × RTX4090"), strict=True)
    ]
    out = StringIO()
    Console(file=out, width=width).print(plan_view(found.model_copy(update={"ranked": tuple(rows)})))
    for row in rows:
        for said in (figure(row.tokens_per_second), format_bytes(row.device_bytes), row.gpus, "20.00 GiB"):
            assert said in out.getvalue()
