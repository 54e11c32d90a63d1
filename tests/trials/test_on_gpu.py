"""On a GPU every engine trains as it does on one fp32 process there, and its memory is what the driver says.

Needs a CUDA device: `make test-gpu` runs it and writes what trained to benchmarks/results/gpu_engines.json,
from which docs/engines.md has its second table.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import psutil
import pytest
from agreement import Run, check, difference, tolerance_of, trained
from matrix import CUDA, GPU_RECORD
from pairs import covering, legal
from probes import ENDLESS, TINY, hf_model, probe
from test_engines import COMPILED, SHARDINGS, told_apart

from autotune.execution.executor import Layout
from autotune.execution.local import LocalExecutor
from autotune.hardware import catalog
from autotune.hardware.nvml import local_gpus
from trials.contract.messages import ModelSpec, ProbeRequest, ProbeResult
from trials.contract.outcome import Outcome, Phase
from trials.engines.fsdp import SHARDS_INTEGERS_FROM

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

AT_ONCE = 8
"""Probes that share the GPU where neither time nor memory is looked at."""
PAIRS = covering(legal(CUDA, without={"attention": "flash", **COMPILED}))
COMPILING = [
    {name: value, "sharding": sharding}
    for name, value in COMPILED.items()
    for sharding in ("ddp", "fsdp", "zero2")
    if (name, sharding) != ("optimizer", "zero2")
]
MODELS = [(model, sharding) for model in ("llama-tied", "gpt2", "qwen2", "factory") for sharding in SHARDINGS]
MIB = 2**20


def on_gpu(
    model: ModelSpec = TINY["llama"], config: dict[str, Any] | None = None, **more: Any
) -> ProbeRequest:
    return probe(model, config, device="cuda", **{"world_size": 1, "deadline_s": 300.0, **more})


def split(fields: dict[str, Any]) -> dict[str, Any]:
    """As two microbatches of four of the eight sequences."""
    return {**fields, "micro_batch_size": 4, "gradient_accumulation_steps": 2}


class Training:
    """Probes of three steps, as many at once as the GPU is shared by."""

    def __init__(self, executor: LocalExecutor) -> None:
        self._executor = executor
        self._known: dict[str, Future[ProbeResult]] = {}

    def start(self, request: ProbeRequest) -> Future[ProbeResult]:
        key = request.model_copy(update={"probe_id": "-"}).to_json()
        if key not in self._known:
            self._known[key] = self._executor.submit(request)
        return self._known[key]

    def wait(self) -> None:
        """Until the GPU is idle."""
        wait(self._known.values())

    def reference(self, model: ModelSpec, fields: dict[str, Any]) -> Future[ProbeResult]:
        return self.start(on_gpu(model, {"micro_batch_size": 8, **trained(fields)}))


@pytest.fixture(scope="module")
def gpu() -> str:
    """What CUDA_VISIBLE_DEVICES calls it."""
    gpus = local_gpus()
    assert gpus, "these tests need a CUDA device, and NVML sees none"
    return gpus[0].visible_as


@pytest.fixture(scope="module")
def training(gpu: str) -> Iterator[Training]:
    with LocalExecutor(Layout("cuda", 1, 1, AT_ONCE), [gpu] * AT_ONCE) as executor:
        training = Training(executor)
        for fields in [*COMPILING, *PAIRS]:
            model = TINY["llama-wide"] if fields in COMPILING else TINY["llama"]
            training.reference(model, fields)
            training.start(on_gpu(model, split(fields)))
        for model, sharding in MODELS:
            training.reference(TINY[model], {})
            training.start(on_gpu(TINY[model], split({"sharding": sharding})))
        yield training


@pytest.fixture(scope="module")
def record(gpu: str) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    yield rows
    GPU_RECORD.write_text(json.dumps({"versions": VERSIONS, "trained": rows}, indent=1) + "\n")


VERSIONS: dict[str, Any] = {}
"""Of what the probes were measured with."""


def compare(
    training: Training, record: list[dict[str, Any]], model: ModelSpec, fields: dict[str, Any]
) -> None:
    reference = training.reference(model, fields).result()
    assert reference.outcome == Outcome.MEASURED, reference
    result = training.start(on_gpu(model, split(fields))).result()
    if result.outcome == Outcome.INVALID and SHARDS_INTEGERS_FROM in (result.reason or ""):
        pytest.skip(str(result.reason))  # this torch cannot, and the engine says so
    check(result, reference, fields)
    assert result.versions is not None
    VERSIONS.update(result.versions.model_dump(mode="json"))
    allowed = tolerance_of(fields)
    record.append(
        {
            "model": model.name,
            "config": fields,
            "loss": [difference(result.losses, reference.losses), allowed.loss],
            "gradient_norm": [
                difference(result.gradient_norms, reference.gradient_norms),
                allowed.gradient_norm,
            ],
        }
    )


@pytest.mark.parametrize("fields", PAIRS, ids=told_apart)
def test_every_pair_of_options_trains_the_same(
    training: Training, record: list[dict[str, Any]], fields: dict[str, Any]
) -> None:
    compare(training, record, TINY["llama"], fields)


@pytest.mark.parametrize(("model", "sharding"), MODELS)
def test_other_models_too(
    training: Training, record: list[dict[str, Any]], model: str, sharding: str
) -> None:
    compare(training, record, TINY[model], {"sharding": sharding, "precision": "fp32"})


@pytest.mark.parametrize("fields", COMPILING, ids=str)
def test_what_is_compiled_trains_the_same(
    training: Training, record: list[dict[str, Any]], fields: dict[str, Any]
) -> None:
    compare(training, record, TINY["llama-wide"], fields)


@pytest.fixture(scope="module")
def run(gpu: str, training: Training) -> Iterator[Run]:
    """One probe at a time, once nothing else is on the GPU."""
    training.wait()
    with LocalExecutor(Layout("cuda", 1, 1, 1), [gpu]) as executor:
        yield lambda request: executor.submit(request).result()


MIDDLING = hf_model(
    "llama",
    vocab_size=32000,
    hidden_size=1024,
    intermediate_size=2816,
    num_hidden_layers=4,
    num_attention_heads=16,
    max_position_embeddings=1024,
)
"""A step holds some GiB."""


@pytest.mark.parametrize(
    "config",
    [*({"sharding": sharding} for sharding in SHARDINGS), {"sharding": "zero2", "offload": "optimizer"}],
    ids=told_apart,
)
def test_a_ceiling_is_kept_or_reported_as_reached(run: Run, config: dict[str, Any]) -> None:
    config = {"precision": "bf16", "sequence_length": 1024, "micro_batch_size": 4, **config}
    free = run(on_gpu(MIDDLING, config))
    assert free.outcome == Outcome.MEASURED, free
    assert free.peak_bytes is not None
    (peaks,) = free.memory
    assert peaks.reserved_bytes is not None
    assert peaks.allocated_bytes is not None
    assert peaks.allocated_bytes <= peaks.reserved_bytes <= peaks.device_bytes == free.peak_bytes
    assert 100 * MIB < peaks.baseline_bytes < 1024 * MIB, "a CUDA context"
    for share in (0.02, 0.5, 1.1):
        ceiling = peaks.baseline_bytes + int(share * (free.peak_bytes - peaks.baseline_bytes))
        result = run(on_gpu(MIDDLING, config, ceiling_bytes=ceiling))
        if share > 1:
            assert result.outcome == Outcome.MEASURED, result
            assert result.peak_bytes is not None
            assert result.peak_bytes <= ceiling
        else:
            assert result.outcome == Outcome.OUT_OF_MEMORY, result
            assert result.phase != Phase.DONE


def test_more_than_the_gpu_has_is_out_of_memory_and_the_next_probe_runs(run: Run) -> None:
    too_much = run(on_gpu(MIDDLING, {"sequence_length": 1024, "micro_batch_size": 4096}))
    assert too_much.outcome == Outcome.OUT_OF_MEMORY, too_much
    assert run(on_gpu(MIDDLING, {"sequence_length": 1024})).outcome == Outcome.MEASURED


def test_what_others_hold_on_the_gpu_is_not_the_probes(run: Run) -> None:
    import torch

    config = {"precision": "bf16", "sequence_length": 1024, "micro_batch_size": 4}
    alone = run(on_gpu(MIDDLING, config))
    held = torch.empty(4 << 30, dtype=torch.uint8, device="cuda")
    beside = run(on_gpu(MIDDLING, config))
    del held
    torch.cuda.empty_cache()
    assert alone.peak_bytes is not None
    assert beside.peak_bytes is not None
    assert abs(beside.peak_bytes - alone.peak_bytes) <= 64 * MIB


def test_activations_in_cpu_memory_are_not_on_the_gpu(run: Run) -> None:
    config = {"precision": "bf16", "sequence_length": 1024, "micro_batch_size": 16, "loss": "chunked"}
    here, elsewhere = (
        run(on_gpu(MIDDLING, {**config, "offload": kind})).memory[0].allocated_bytes
        for kind in ("none", "activations")
    )
    assert here is not None
    assert elsewhere is not None
    assert elsewhere < 0.8 * here


def test_the_catalogue_knows_the_device_by_the_name_that_a_probe_reports(run: Run) -> None:
    result = run(on_gpu())
    assert result.versions is not None
    assert catalog.match(result.versions.device_name or "") is not None, "add it to gpus.toml"
    assert result.versions.driver
    assert result.versions.nccl


def test_a_cancelled_probe_frees_the_gpu(gpu: str, run: Run) -> None:
    with LocalExecutor(Layout("cuda", 1, 1, 1), [gpu]) as executor:
        request = on_gpu(MIDDLING, {"sequence_length": 1024}, measurement=ENDLESS)
        future = executor.submit(request)
        while not _processes_on_gpu():
            assert not future.done(), future.result()
            time.sleep(0.2)
        executor.cancel(request.probe_id)
        assert future.result().outcome == Outcome.INTERRUPTED
    assert not _processes_on_gpu()


def _processes_on_gpu() -> list[int]:
    """Ranks that are descendants of this process and hold a CUDA context, by the files they have open."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            files = [link.readlink() for link in Path(f"/proc/{process.pid}/fd").iterdir()]
            if any(file.name == "nvidia0" for file in files):
                found.append(process.pid)
    return found
