"""Peak memory on fake tensors: what is counted, and that shallow models tell of deep ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from probes import TINY, factory_model, probe
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import loss_parallel

from trials import trace
from trials.command import BadInput
from trials.contract.messages import ProbeRequest, StepPhase, TraceResult
from trials.storages import StorageTracker

ROOT = Path(__file__).parents[2]
DEEP = {"num_hidden_layers": 12}


def deep(model: str = "llama", **fields: object) -> ProbeRequest:
    """A request for a model of twelve layers on one rank, unless told otherwise."""
    request = probe(TINY[model], **{"world_size": 1, **fields})
    config = {**(request.model.hf_config or {}), **DEEP}
    if model == "gpt2":
        config["n_layer"] = config.pop("num_hidden_layers")
    return request.model_copy(update={"model": request.model.model_copy(update={"hf_config": config})})


class TestTracker:
    def test_counts_what_lives_and_remembers_where_it_was_most(self) -> None:
        tracker = StorageTracker()
        before = torch.zeros(10)
        tracker.count([before, before.view(2, 5)])
        assert tracker.bytes == 40
        with tracker.watching():
            tracker.enter("first")
            kept = torch.zeros(100)
            for _ in range(3):
                torch.ones(1000)
            tracker.enter("second")
            kept.untyped_storage().resize_(0)
            tracker.enter("third")
        assert tracker.peaks == {"first": 4440, "second": 440, "third": 40}

    def test_views_are_no_memory_of_their_own(self) -> None:
        tracker = StorageTracker()
        with tracker.watching():
            tracker.enter("all")
            whole = torch.zeros(10, 10)
            halves = whole[:5], whole[5:].t()
            assert len(halves) == 2
        assert tracker.peaks["all"] == 400

    def test_gradients_are_added_up_in_place(self) -> None:
        tracker = StorageTracker()
        weight = torch.zeros(1000, requires_grad=True)
        tracker.count([weight])
        with tracker.watching():
            tracker.enter("forward")
            loss = (weight * weight.detach()).sum() + (weight * weight.detach()).sum()
            tracker.enter("backward")
            loss.backward()
        assert tracker.peaks["backward"] - tracker.peaks["forward"] <= 2 * 4000

    def test_but_not_into_that_of_a_linear_layer_which_is_a_view(self) -> None:
        tracker = StorageTracker()
        weight = torch.zeros(1000, 10, requires_grad=True)
        tracker.count([weight])
        with tracker.watching():
            tracker.enter("forward")
            tokens = torch.nn.functional.embedding(torch.zeros(1, dtype=torch.int64), weight)
            loss = torch.nn.functional.linear(tokens, weight).sum()
            tracker.enter("backward")
            loss.backward()
        assert tracker.peaks["backward"] >= 4 * weight.nbytes

    def test_what_dtensor_does_inside_an_operator_is_counted(self) -> None:
        """A part of the logits, its exponentials and the result; not the whole, whose shape it learns."""
        part_bytes = 4000
        with trace._world(8), loss_parallel():
            mesh = init_device_mesh("cpu", (8,))
            logits = DTensor.from_local(torch.zeros(10, 100), mesh, [Shard(-1)], run_check=False)
            tracker = StorageTracker()
            with tracker.watching():
                tracker.enter("all")
                torch.log_softmax(logits, dim=-1)
        assert 3 * part_bytes <= tracker.peaks["all"] < 8 * part_bytes


@pytest.mark.parametrize(
    "request_",
    [
        deep(),
        deep("gpt2", config={"precision": "bf16"}),
        deep("llama-tied", config={"activation_checkpointing": "full", "gradient_accumulation_steps": 5}),
        deep(config={"activation_checkpointing": "selective", "precision": "bf16_pure"}),
        deep(config={"sharding": "fsdp", "precision": "bf16"}, world_size=16),
        deep(config={"sharding": "fsdp", "activation_checkpointing": "full"}, world_size=4),
    ],
    ids=lambda request: f"{request.config.sharding}-{request.config.activation_checkpointing}",
)
def test_two_shallow_models_tell_of_a_deep_one(request_: ProbeRequest) -> None:
    found = trace.trace(request_)
    whole = trace.trace_whole(request_).phases
    assert found.traced_layers == (4, 6)
    assert found.num_layers == 12
    assert found.phases == pytest.approx(whole, rel=0.002)
    assert found.peak_bytes == max(found.phases.values())


def test_an_optimizer_step_is_weights_gradients_and_states() -> None:
    found = trace.trace(deep(config={"precision": "fp32", "optimizer": "adamw", "sequence_length": 1}))
    sgd = trace.trace(deep(config={"precision": "fp32", "optimizer": "sgd", "sequence_length": 1}))
    states = found.phases[StepPhase.STEP] - sgd.phases[StepPhase.STEP]
    # Two moments beside weights and gradients; step counters and rotary tables are small.
    assert states == pytest.approx(sgd.phases[StepPhase.STEP], rel=0.02)


def test_checkpointing_shows() -> None:
    every, full, selective = (
        trace.trace(deep(config={"activation_checkpointing": mode, "micro_batch_size": 8}))
        for mode in ("none", "full", "selective")
    )
    assert full.phases[StepPhase.FORWARD] < selective.phases[StepPhase.FORWARD]
    assert selective.phases[StepPhase.FORWARD] < every.phases[StepPhase.FORWARD]


@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_scaling_losses_keeps_nothing_of_size(optimizer: str) -> None:
    """Also where the step is not a fused one, before which the scaler looks at the gradients."""
    bf16, fp16 = (
        trace.trace(probe(TINY["llama"], {"precision": precision, "optimizer": optimizer}, world_size=1))
        for precision in ("bf16", "fp16")
    )
    assert fp16.peak_bytes == pytest.approx(bf16.peak_bytes, rel=0.01)


def test_a_factory_is_traced_too() -> None:
    found = trace.trace(probe(factory_model("tiny:build"), world_size=1))
    assert found.peak_bytes > 0


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"sharding": "fsdp", "optimizer": "adamw_8bit"}, "adamw_8bit reads what its tensors hold"),
        ({"sharding": "ddp"}, "DDP does not run on fake tensors"),
        ({"sharding": "zero2"}, "DeepSpeed's ZeRO does not run on fake tensors"),
        (
            {"sharding": "fsdp", "pipeline_parallel_size": 2, "gradient_accumulation_steps": 2},
            "a stage of a pipeline waits",
        ),
        ({"sharding": "fsdp", "compile": True}, "compiles nothing, so what compiling saves would be counted"),
    ],
)
def test_what_cannot_be_traced_is_said(config: dict[str, object], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        trace.trace(probe(config=config))


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "find_spec", lambda _name: None)
    with pytest.raises(BadInput, match="needs the package flash-attn, which is not installed"):
        trace.trace(probe(config={"sharding": "fsdp", "attention": "flash", "precision": "bf16"}))


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "trials.trace", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    source, target = tmp_path / "request.json", tmp_path / "result.json"
    source.write_text(deep(config={"sharding": "fsdp"}, world_size=64).to_json())
    done = run(source, target)
    assert done.returncode == 0, done.stderr
    result = TraceResult.parse(target.read_bytes())
    assert done.stdout == f"{result.peak_bytes} bytes at the peak of one rank's tensors\n"


def test_the_command_refuses_in_one_sentence(tmp_path: Path) -> None:
    source = tmp_path / "request.json"
    source.write_text(json.dumps({**json.loads(probe().to_json()), "config": {"sharding": "zero3"}}))
    done = run(source, tmp_path / "result.json")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("DeepSpeed's ZeRO does not run on fake tensors")
    assert not (tmp_path / "result.json").exists()
