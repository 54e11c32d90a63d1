"""Every outcome that a probe can have, met by real probes of two ranks."""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from probes import ENDLESS, THREE_STEPS, TINY, factory_model, hf_model, probe

from autotune.execution.local import LocalExecutor
from trials.contract.messages import ModelSpec, ProbeRequest, ProbeResult
from trials.contract.outcome import Outcome, Phase
from trials.measure import MAX_SKIPPED_STEPS

Run = Callable[[ProbeRequest], ProbeResult]

SHARDINGS = ("ddp", "fsdp", "zero1", "zero2", "zero3")
MIB = 2**20
INTERPRETER_BYTES = 100 * MIB
"""Less than Python with torch in it."""
# So large that a step holds a hundred MiB beside the interpreter, and not so large that it takes long.
MIDDLING = hf_model(
    "llama",
    vocab_size=4096,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=128,
)


def failed(result: ProbeResult) -> tuple[Outcome, Phase, int | None]:
    return result.outcome, result.phase, result.rank


class TestOutOfMemory:
    @pytest.mark.parametrize(
        "config",
        [*({"sharding": sharding} for sharding in SHARDINGS), {"sharding": "zero2", "offload": "optimizer"}],
        ids=lambda config: "-".join(config.values()),
    )
    @pytest.mark.timeout(600)  # DeepSpeed's CPUAdam may be compiled here, once per machine
    def test_a_ceiling_is_kept_or_reported_as_reached(self, run: Run, config: dict[str, str]) -> None:
        config = {"sequence_length": 128, "micro_batch_size": 8, **config}
        free = run(probe(MIDDLING, config))
        assert free.outcome == Outcome.MEASURED, free
        assert free.peak_bytes is not None
        baseline = min(peaks.baseline_bytes for peaks in free.memory)
        for share in (0.02, 0.3, 0.6, 1.5):
            ceiling = baseline + int(share * (free.peak_bytes - baseline))
            result = run(probe(MIDDLING, config, ceiling_bytes=ceiling))
            assert result.peak_bytes is not None
            if share > 1:
                assert result.outcome == Outcome.MEASURED, result
                assert result.peak_bytes <= ceiling
            else:
                assert result.outcome == Outcome.OUT_OF_MEMORY, result
                assert result.rank in (0, 1)
                assert result.phase != Phase.DONE
                assert result.reason is not None
                assert result.reason.endswith(f"over the ceiling of {ceiling / MIB:.1f} MiB")
                assert result.peak_bytes > ceiling

    @pytest.mark.parametrize("ceiling", [1, INTERPRETER_BYTES])
    def test_a_ceiling_below_the_interpreter_is_reached_before_anything_is_built(
        self, run: Run, ceiling: int
    ) -> None:
        result = run(probe(ceiling_bytes=ceiling))
        assert failed(result) == (Outcome.OUT_OF_MEMORY, Phase.START, 0)

    @pytest.mark.parametrize("sharding", SHARDINGS)
    def test_an_allocation_that_the_machine_refuses_is_out_of_memory(self, run: Run, sharding: str) -> None:
        result = run(probe(factory_model("unusable:takes_too_much"), {"sharding": sharding}))
        assert failed(result) == (Outcome.OUT_OF_MEMORY, Phase.BUILD, 0)


class TestNonFinite:
    @pytest.mark.parametrize("sharding", SHARDINGS)
    @pytest.mark.parametrize(
        ("model", "precision", "reason"),
        [
            ("NotANumberLoss", "fp32", "the loss of step 3 is nan"),
            # The loss is finite; DeepSpeed calls every such norm infinite.
            ("NotANumberGradientNorm", "bf16", "the gradient norm of step 3 is (nan|inf)"),
        ],
    )
    def test_numbers_that_training_cannot_go_on_from(
        self, run: Run, model: str, precision: str, reason: str, sharding: str
    ) -> None:
        config = {"sharding": sharding, "precision": precision}
        result = run(probe(factory_model(f"non_finite:{model}"), config))
        assert failed(result) == (Outcome.NON_FINITE, Phase.MEASURE, 0), result
        assert re.fullmatch(reason, result.reason or "")
        assert len(result.losses) == 3

    def test_an_infinite_loss(self, run: Run) -> None:
        result = run(probe(factory_model("non_finite:InfiniteLoss")))
        assert (result.outcome, result.reason) == (Outcome.NON_FINITE, "the loss of step 3 is inf")

    @pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
    def test_a_loss_scaler_may_throw_a_step_away(self, run: Run, sharding: str) -> None:
        config = {"sharding": sharding, "precision": "fp16"}
        result = run(probe(factory_model("non_finite:NotANumberGradientNorm"), config))
        assert result.outcome == Outcome.MEASURED, result
        assert len(result.losses) == THREE_STEPS.max_warm_up_steps + THREE_STEPS.max_steps + 1

    @pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
    def test_but_not_all_of_them(self, run: Run, sharding: str) -> None:
        config = {"sharding": sharding, "precision": "fp16"}
        result = run(probe(factory_model("non_finite:AlwaysNotANumberGradientNorm"), config))
        assert failed(result) == (Outcome.NON_FINITE, Phase.WARM_UP, 0), result
        assert len(result.losses) == MAX_SKIPPED_STEPS + 1


DEATHS = {
    "raises": "RuntimeError: as it was told to",
    "aborts": "ended by SIGABRT",
    "exits": "exited with 7 without a report",
    "segfaults": "ended by SIGSEGV",
}


class TestCrashed:
    """Rank 1 fails while rank 0 waits for it in a collective, and it is rank 1 that is named."""

    @pytest.mark.parametrize("phase", [Phase.WARM_UP, Phase.MEASURE])
    @pytest.mark.parametrize("death", DEATHS)
    def test_every_death_in_a_step(self, run: Run, death: str, phase: Phase) -> None:
        result = run(probe(factory_model(f"failing:{death}_in_{phase}")))
        assert failed(result) == (Outcome.CRASHED, phase, 1), result
        assert result.reason == DEATHS[death]

    @pytest.mark.parametrize("sharding", SHARDINGS)
    def test_every_engine_notices(self, run: Run, sharding: str) -> None:
        result = run(probe(factory_model("failing:raises_in_measure"), {"sharding": sharding}))
        assert failed(result) == (Outcome.CRASHED, Phase.MEASURE, 1), result
        assert result.reason == DEATHS["raises"]

    @pytest.mark.parametrize("death", ["aborts", "exits", "segfaults"])
    def test_a_death_while_building(self, run: Run, death: str) -> None:
        result = run(probe(factory_model(f"failing:{death}_in_build")))
        assert failed(result) == (Outcome.CRASHED, Phase.BUILD, 1), result
        assert result.reason == DEATHS[death]

    def test_the_traceback_is_kept_for_those_who_debug(self, run: Run) -> None:
        result = run(probe(factory_model("failing:raises_in_measure")))
        assert result.detail is not None
        assert "failing.py" in result.detail

    def test_the_next_probe_knows_nothing_of_it(self, run: Run) -> None:
        run(probe(factory_model("failing:segfaults_in_measure")))
        assert run(probe()).outcome == Outcome.MEASURED

    def test_a_device_that_is_not_there(self, run: Run) -> None:
        result = run(probe(device="cuda", world_size=1))
        assert (result.outcome, result.phase) == (Outcome.CRASHED, Phase.START)
        assert result.reason == "there is no CUDA device 0; this process sees 0"


class TestInvalid:
    @pytest.mark.parametrize(
        ("factory", "phase", "reason"),
        [
            ("unusable:raises", Phase.BUILD, "unusable:raises raised RuntimeError: no such dataset"),
            ("unusable:exits", Phase.BUILD, "unusable:exits raised SystemExit: 3"),
            ("unusable:no_module", Phase.BUILD, "unusable:no_module returned dict, not a torch.nn.Module"),
            ("unusable:no_embedding", Phase.BUILD, "the model has no nn.Embedding, "),
            ("unusable:no_layers", Phase.BUILD, "the model keeps no stack of equal layers "),
            (
                "unusable:Logits",
                Phase.WARM_UP,
                "the model's forward(input_ids=..., labels=...) must return a loss",
            ),
            (
                "unusable:not_callable",
                Phase.BUILD,
                "unusable:not_callable: unusable has no callable 'not_callable'",
            ),
            ("unusable:missing", Phase.BUILD, "unusable:missing: unusable has no callable 'missing'"),
            (
                "nowhere:build",
                Phase.BUILD,
                "nowhere:build raised ModuleNotFoundError: No module named 'nowhere'",
            ),
        ],
    )
    def test_a_factory_that_gives_no_model(self, run: Run, factory: str, phase: Phase, reason: str) -> None:
        result = run(probe(factory_model(factory)))
        assert failed(result) == (Outcome.INVALID, phase, 0)
        assert result.reason is not None
        assert result.reason.startswith(reason)

    def test_a_factory_that_is_no_python(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "unreadable.py").write_text("def build(:")
        result = run(probe(factory_model("unreadable:build", tmp_path)))
        assert failed(result) == (Outcome.INVALID, Phase.BUILD, 0)
        assert result.reason is not None
        assert result.reason.startswith("unreadable:build raised SyntaxError: ")

    @pytest.mark.parametrize(
        ("model", "reason"),
        [
            (hf_model("nonsense"), "transformers knows no model_type 'nonsense'"),
            (hf_model("t5"), "transformers has no causal language model for model_type 't5'"),
            (hf_model("llama", hidden_size=33), "transformers refuses this llama configuration: "),
        ],
    )
    def test_a_configuration_that_is_no_language_model(self, run: Run, model: ModelSpec, reason: str) -> None:
        result = run(probe(model))
        assert failed(result) == (Outcome.INVALID, Phase.BUILD, 0)
        assert result.reason is not None
        assert result.reason.startswith(reason)

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"attention": "flash"}, "flash attention runs on CUDA only"),
            ({"sharding": "zero3", "precision": "fp16"}, "DeepSpeed refuses fp16 on CPU"),
            (
                {"tensor_parallel_size": 2, "loss": "chunked"},
                "no engine probes a chunked loss with tensor parallelism yet",
            ),
        ],
    )
    def test_what_the_capabilities_refuse(self, run: Run, fields: dict[str, Any], reason: str) -> None:
        result = run(probe(config=fields))
        assert failed(result) == (Outcome.INVALID, Phase.START, 0)
        assert result.reason == reason


class TestTimedOut:
    def test_a_deadline_in_the_middle_of_measuring(self, run: Run) -> None:
        result = run(probe(measurement=ENDLESS, deadline_s=5.0))
        assert failed(result) == (Outcome.TIMED_OUT, Phase.MEASURE, 0), result
        assert result.reason == "not done after 5 s"

    def test_a_factory_that_hangs(self, run: Run) -> None:
        result = run(probe(factory_model("unusable:hangs"), deadline_s=2.0))
        assert failed(result) == (Outcome.TIMED_OUT, Phase.BUILD, 0)


def test_a_probe_that_is_cancelled_is_interrupted(executor: LocalExecutor) -> None:
    request = probe(TINY["llama"], measurement=ENDLESS)
    future = executor.submit(request)
    threading.Timer(1.0, executor.cancel, [request.probe_id]).start()
    result = future.result()
    assert (result.outcome, result.reason) == (Outcome.INTERRUPTED, "cancelled")
