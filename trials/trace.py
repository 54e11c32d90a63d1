"""Peak memory without the memory: `python -P -m trials.trace request.json result.json`.

The real model is trained for two steps on fake tensors, which have sizes and no contents, by the engine that
a probe would use, for one rank of its world. The bytes of all tensors are counted as they come and go.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily

from trials.command import BadInput, run_command
from trials.contract.capabilities import ENGINE_OF_SHARDING
from trials.contract.messages import ProbeRequest, StepPhase, TraceResult
from trials.data import Batch
from trials.engines import EngineRefusal, Setting, build_engine
from trials.engines.torch_step import TorchStep
from trials.model import ModelUnusable, find_layers
from trials.storages import StorageTracker

USAGE = """usage: python -P -m trials.trace request.json result.json

Finds the peak memory of a configuration by running the real model on fake tensors: no GPU is needed, nor the
memory for the model. request.json is a ProbeRequest (see `python -P -m trials.probe --help`), of which one
rank is traced; result.json tells the bytes of all its tensors in each phase of a step.

Exit codes: 0 the result is written; 1 the machine failed; 2 the request or a path is wrong, or cannot be
traced; 130 interrupted."""

MAX_MICROBATCHES = 2
"""From the second microbatch on, each finds the memory as the one before it."""
MAX_PERIOD = 8
"""Layers repeat after so many at most (Gemma 3 has a global one in six), or the model is traced whole."""

LayerPeaks = Mapping[str, int]


def trace(request: ProbeRequest) -> TraceResult:
    """Trace one rank; of a deep model two shallow ones, from which its peaks are extrapolated.

    Every phase's peak is linear in the number of layers, once there are as many as can differ. Raises
    BadInput for what cannot be traced.
    """
    _require_traceable(request)
    period, num_layers = _layer_pattern(request)
    few, more = 2 * max(period, 2), 3 * max(period, 2)
    return _trace(request, num_layers, (few, more) if num_layers > more else (num_layers,))


def trace_whole(request: ProbeRequest) -> TraceResult:
    """Trace one rank with every layer, which takes as much longer; raises BadInput."""
    _require_traceable(request)
    _, num_layers = _layer_pattern(request)
    return _trace(request, num_layers, (num_layers,))


def _trace(request: ProbeRequest, num_layers: int, depths: tuple[int, ...]) -> TraceResult:
    started = time.monotonic()
    with _world(request.world_size, _heaviest_rank(request)):
        traced = [_trace_depth(request, depth) for depth in depths]
    peaks = traced[0].peaks if len(traced) == 1 else _extrapolated(traced[0], traced[1], num_layers)
    phases = _by_phase(peaks)
    return TraceResult(
        probe_id=request.probe_id,
        peak_bytes=max(phases.values()),
        phases=phases,
        num_layers=num_layers,
        traced_layers=depths,
        seconds=time.monotonic() - started,
    )


def _require_traceable(request: ProbeRequest) -> None:
    config = request.config
    if ENGINE_OF_SHARDING[config.sharding] == "zero":
        raise BadInput("DeepSpeed's ZeRO does not run on fake tensors; `autotune plan` forecasts it")
    if config.offload != "none":
        raise BadInput("a trace counts every tensor, and cannot tell which are in CPU memory")
    if config.optimizer in ("adafactor", "adamw_8bit"):
        raise BadInput(
            f"optimizer={config.optimizer} reads what its tensors hold, which fake ones do not have; "
            "`autotune plan` forecasts it"
        )
    if config.sharding == "ddp" and request.world_size > config.tensor_parallel_size:
        raise BadInput(
            "DDP does not run on fake tensors; trace the same configuration on one GPU: what it lacks are "
            "buckets, which are as large as the gradients"
        )
    if config.compile:
        raise BadInput(
            "a trace compiles nothing, so what compiling saves would be counted as well; trace the same "
            "configuration without compile, or see what `autotune plan` forecasts"
        )
    if config.attention == "flash" and find_spec("flash_attn") is None:
        raise BadInput(
            "attention=flash needs the package flash-attn, which is not installed; trace the same "
            "configuration with attention=sdpa, whose kernels keep as much"
        )
    if config.pipeline_parallel_size > 1:
        raise BadInput("a trace is of one rank alone, and a stage of a pipeline waits for the others")


def _heaviest_rank(request: ProbeRequest) -> int:
    """The first rank, whose shards are never smaller; of context-parallel ones the last, whose early piece
    attends to the most keys and has the largest gradients of them beside those of all.
    """
    return (request.config.context_parallel_size - 1) * request.config.tensor_parallel_size


@contextmanager
def _world(size: int, rank: int = 0) -> Iterator[None]:
    """A process group of which this is one rank, and the other ranks do not exist."""
    if size == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=rank, world_size=size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class _Traced:
    num_layers: int
    peaks: LayerPeaks
    """Phase, or layer by its number, → bytes."""


def _trace_depth(request: ProbeRequest, num_layers: int) -> _Traced:
    """The peaks of the second step, when the optimizer states exist, of the model cut to `num_layers`."""
    setting = Setting(
        model=request.model,
        config=request.config,
        device_kind="cpu",
        device=torch.device("cpu"),
        world_size=request.world_size,
        num_nodes=request.num_nodes,
        seed=request.seed,
        num_layers=num_layers,
    )
    tracker = StorageTracker()
    with ExitStack() as stack:
        stack.enter_context(as_with_real_tensors())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        engine = build_engine(setting)
        assert isinstance(engine, TorchStep)
        follow(engine, tracker)
        batches = _batches(request, engine.vocab_size)
        tracker.count([*engine.model.parameters(), *engine.model.buffers()])
        tracker.count(tensor for batch in batches for tensor in batch.values())
        with tracker.watching():
            for _ in range(2):
                tracker.peaks.clear()
                tracker.enter(StepPhase.FORWARD)
                engine.step(batches)
        return _Traced(num_layers, dict(tracker.peaks))


def _batches(request: ProbeRequest, vocab_size: int) -> Sequence[Batch]:
    config = request.config
    shape = (config.micro_batch_size, config.sequence_length)
    count = min(config.gradient_accumulation_steps, MAX_MICROBATCHES)
    tokens = (torch.zeros(shape, dtype=torch.int64) for _ in range(count))
    return [{"input_ids": own, "labels": own} for own in tokens]


def follow(engine: TorchStep, tracker: StorageTracker) -> None:
    """Have the tracker told of each phase as it begins: by the gradients that come by, and the optimizer."""
    layers = list(find_layers(engine.model))

    def enter(phase: str) -> None:
        tracker.enter(phase)

    def when_backward_reaches(phase: str, tensors: object) -> None:
        tensor = _first_tensor(tensors)
        if tensor is not None and tensor.requires_grad:
            tensor.register_hook(lambda _: enter(phase))

    engine.model.register_forward_hook(
        lambda _module, _args, output: when_backward_reaches(StepPhase.LOSS, getattr(output, "loss", output))
    )
    engine.model.register_forward_pre_hook(lambda _module, _args: enter(StepPhase.FORWARD))
    layers[0].register_forward_pre_hook(
        lambda _module, args, kwargs: when_backward_reaches(
            StepPhase.EMBEDDING, args or kwargs.get("hidden_states")
        ),
        with_kwargs=True,
    )
    for index, layer in enumerate(layers):
        layer.register_forward_hook(
            lambda _module, _args, output, phase=str(index): when_backward_reaches(phase, output)
        )
    engine.optimizer.register_step_pre_hook(lambda *_: enter(StepPhase.STEP))


def _first_tensor(value: object) -> torch.Tensor | None:
    if isinstance(value, tuple):
        return next((item for item in value if isinstance(item, torch.Tensor)), None)
    return value if isinstance(value, torch.Tensor) else None


@contextmanager
def as_with_real_tensors() -> Iterator[None]:
    """Keep transformers on the way that it takes when tensors have contents.

    When it sees a fake it takes packed sequences for granted, and the mask that it makes for them excludes
    the fused kernels and repeats keys and values for all heads. And torch's grouped matmul of experts has
    no fake for fp32; the library's fallback has, and returns the same. A causal bias is a kind of tensor that
    no fake can be: without one the same tensors are kept. Meshes look ranks up in their tensors. A scaler
    of losses looks whether gradients are finite before an optimizer steps.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import masking_utils
    from transformers.integrations import moe

    from trials import context_parallel

    concatenate = DeviceMesh._concatenate  # FSDP2's, for parameters that tensor parallelism has split

    def concatenate_real(meshes: list[DeviceMesh]) -> DeviceMesh:
        with unset_fake_temporarily():
            return concatenate(meshes)

    def step_at_once(_scaler: object, optimizer: torch.optim.Optimizer, *_state: object) -> None:
        optimizer.step()

    with ExitStack() as stack:
        for owner, name, function in (
            (masking_utils, "find_packed_sequence_indices", _answering(None)),
            (moe, "_can_use_grouped_mm", _answering(False)),
            (context_parallel, "causal_lower_right", _answering(None)),
            (torch.amp.GradScaler, "_maybe_opt_step", step_at_once),
            (DeviceMesh, "_concatenate", staticmethod(concatenate_real)),
        ):
            stack.enter_context(_replaced(owner, name, function))
        yield


def _answering(value: object) -> Callable[..., object]:
    return lambda *_args, **_kwargs: value


@contextmanager
def _replaced(owner: ModuleType | type, name: str, function: object) -> Iterator[None]:
    before = vars(owner)[name]
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _layer_pattern(request: ProbeRequest) -> tuple[int, int]:
    """After how many layers they repeat, and how many there are; both the same where they do not."""
    from trials.model import build

    try:
        built = build(request.model, request.config, torch.bfloat16, request.seed)
    except ModelUnusable as error:
        raise BadInput(str(error)) from error
    kinds = [kind_of(layer) for layer in built.layers]
    for period in range(1, min(MAX_PERIOD, len(kinds)) + 1):
        if all(kind == kinds[index % period] for index, kind in enumerate(kinds)):
            return period, len(kinds)
    return len(kinds), len(kinds)


def kind_of(layer: nn.Module) -> object:
    """What makes one layer take other memory than another: its parameters, and how far its attention sees."""
    shapes = tuple((name, parameter.shape) for name, parameter in layer.named_parameters())
    windows = tuple(getattr(module, "sliding_window", None) for module in layer.modules())
    return shapes, windows


def _extrapolated(few: _Traced, more: _Traced, num_layers: int) -> LayerPeaks:
    """The peaks at `num_layers`; layers are matched from the first on and from the last back."""
    peaks = {}
    for key, at_few in _anchored(few).items():
        slope = (_anchored(more)[key] - at_few) / (more.num_layers - few.num_layers)
        peaks[key] = round(at_few + slope * (num_layers - few.num_layers))
    return peaks


def _anchored(traced: _Traced) -> LayerPeaks:
    """The peaks with each layer under its number from the nearer end: 0, 1, … and -1, -2, …."""
    half = traced.num_layers // 2
    return {
        key if not key.isdigit() or int(key) < half else str(int(key) - traced.num_layers): peak
        for key, peak in traced.peaks.items()
    }


def _by_phase(peaks: LayerPeaks) -> dict[StepPhase, int]:
    phases = {phase: peaks[phase] for phase in StepPhase if phase in peaks}
    of_layers = [peak for key, peak in peaks.items() if key.lstrip("-").isdigit()]
    return {**phases, StepPhase.LAYERS: max(of_layers)}


def _trace_or_refuse(request: ProbeRequest) -> TraceResult:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        return trace(request)
    except (EngineRefusal, ModelUnusable) as error:
        raise BadInput(str(error)) from error


def _summary(result: TraceResult) -> str:
    return f"{result.peak_bytes} bytes at the peak of one rank's tensors"


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], USAGE, _trace_or_refuse, _summary))
