"""The messages of a probe: what is asked, what each rank reports, what comes back."""

import hashlib
import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from trials.contract.config import Count, TrainingConfig
from trials.contract.constants import EngineConstants
from trials.contract.message import Message
from trials.contract.outcome import Outcome, Phase

DeviceKind = Literal["cpu", "cuda"]


class ModelSpec(Message):
    """What a probe needs to build the model; weights are random, nothing is downloaded."""

    name: str
    """How people refer to it."""
    hf_config: dict[str, Any] | None = None
    """A cleaned Hugging Face configuration (`model_type` and its fields)."""
    factory: str | None = None
    """`package.module:callable` of the user's; called without arguments, it returns an nn.Module."""
    factory_path: str | None = None
    """Folder put first on sys.path to import the factory from."""
    factory_version: str | None = None
    """What the user declares the factory's code to be; without one, measurements are not reused."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.hf_config is None) == (self.factory is None):
            raise ValueError("a model is either a Hugging Face configuration or a factory")
        if self.factory_path is not None and not PurePosixPath(self.factory_path).is_absolute():
            raise ValueError("factory_path must be absolute, since probes run in other folders")
        return self

    @property
    def digest(self) -> str:
        """Sixteen hex digits that change with anything that changes the model."""
        facts = self.model_dump(exclude={"name", "factory_path"})
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class MeasurementPlan(Message):
    """When warming up and measuring end; whichever bound is met first."""

    min_warm_up_steps: Count = 2
    """Two, so that the optimizer states exist and the allocator has seen a whole step."""
    max_warm_up_steps: Count = 6
    least_steps: Count = 3
    """Taken however long they last."""
    min_steps: Count = 6
    """Taken unless the seconds end first: the least for a distribution-free 95 % interval of the median."""
    max_steps: Count = 40
    max_measure_s: float = Field(default=10.0, gt=0)
    """Seconds of measured steps after which no further one begins."""
    relative_half_width: float = Field(default=0.02, gt=0)
    """Narrow enough: half the median's 95 % interval over the median."""
    step_to_beat_s: float | None = Field(default=None, gt=0)
    """Seconds that a step may take for the configuration to be the best so far; a probe that cannot come to
    it is outpaced, and ends. None: it is measured to its end whatever comes."""


class ProbeRequest(Message):
    """One probe of one configuration."""

    probe_id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,80}$")
    model: ModelSpec
    config: TrainingConfig = TrainingConfig()
    device: DeviceKind = "cpu"
    world_size: Count = 1
    num_nodes: Count = 1
    """Nodes the world is spread over, in equal parts."""
    ceiling_bytes: int | None = Field(default=None, gt=0)
    """Device bytes one rank may use, interpreter or CUDA context included; None: unlimited."""
    deadline_s: float = Field(default=300.0, gt=0, le=7 * 24 * 3600.0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    measurement: MeasurementPlan = MeasurementPlan()

    @model_validator(mode="after")
    def _even_nodes(self) -> Self:
        if self.world_size % self.num_nodes:
            raise ValueError(f"{self.world_size} ranks do not spread evenly over {self.num_nodes} nodes")
        return self

    @property
    def ranks_per_node(self) -> int:
        return self.world_size // self.num_nodes


class NodeShare(Message):
    """The part of a probe that one node runs."""

    request: ProbeRequest
    node_rank: int = Field(default=0, ge=0)
    rendezvous_host: str = "127.0.0.1"
    rendezvous_port: int = Field(ge=1, le=65535)

    @property
    def ranks(self) -> range:
        first = self.node_rank * self.request.ranks_per_node
        return range(first, first + self.request.ranks_per_node)


class MemoryPeaks(Message):
    """Peaks of one rank, in bytes, over warm-up and measurement."""

    device_bytes: int
    """What the ceiling counts: on CUDA context, communicators and allocator; on CPU the resident set."""
    allocated_bytes: int | None = None
    """Tensors (CUDA's caching allocator); None on CPU."""
    reserved_bytes: int | None = None
    """What the allocator holds from the device; None on CPU."""
    allocator_retries: int = 0
    """Times the allocator gave its cache back to find room: a sign of running at the edge."""
    baseline_bytes: int = 0
    """Device bytes before the model was built: interpreter or context."""


class Versions(Message):
    """What a measurement depends on besides the configuration."""

    device_name: str
    """GPU or CPU model."""
    driver: str | None = None
    python: str
    torch: str
    transformers: str
    deepspeed: str | None = None
    torchao: str | None = None
    peft: str | None = None
    bitsandbytes: str | None = None
    nccl: str | None = None
    protocol: int


class RankReport(Message):
    """What one rank, or the supervisor on behalf of a rank that could not, says at the end."""

    rank: int
    outcome: Outcome
    phase: Phase
    reason: str | None = None
    """One sentence: what went wrong."""
    lost_peer: bool = False
    """It failed because another rank was gone, so the cause is with that one."""
    detail: str | None = None
    """The end of the traceback or of the rank's output, for those who debug."""
    memory: MemoryPeaks | None = None
    step_s: tuple[float, ...] = ()
    """Seconds of each measured optimizer step, accumulation and communication included."""
    losses: tuple[float, ...] = ()
    """Global mean loss of each step since the first, warm-up included."""
    gradient_norms: tuple[float, ...] = ()
    """Global gradient norm before clipping, of the same steps."""
    num_parameters: int | None = None
    constants: EngineConstants | None = None
    versions: Versions | None = None
    phase_s: dict[Phase, float] = Field(default_factory=dict)
    """Seconds spent in each phase."""
    throttled: str | None = None
    """Why the device ran below its clock while measuring, where it says so."""
    output: str | None = None
    """The end of what it printed, where it printed anything."""


class Estimate(Message):
    """A median with its 95 % interval."""

    median: float
    low: float
    high: float


class ProbeResult(Message):
    """What became of a probe: the worst rank's memory, the slowest rank's time."""

    probe_id: str
    outcome: Outcome
    phase: Phase
    rank: int | None = None
    """The rank that decided the outcome, where one did."""
    reason: str | None = None
    detail: str | None = None
    tokens_per_second: Estimate | None = None
    """Of the whole job, over all ranks."""
    step_s: tuple[float, ...] = ()
    peak_bytes: int | None = None
    """Device bytes of the worst rank."""
    memory: tuple[MemoryPeaks, ...] = ()
    """Per rank."""
    losses: tuple[float, ...] = ()
    gradient_norms: tuple[float, ...] = ()
    num_parameters: int | None = None
    constants: EngineConstants | None = None
    versions: Versions | None = None
    phase_s: dict[Phase, float] = Field(default_factory=dict)
    throttled: str | None = None
    output: str | None = None
    """The end of what the rank printed that decided the outcome."""
    seconds: float = 0.0
    """Wall time from request to result."""


class StepPhase(StrEnum):
    """The parts of an optimizer step in which a rank's memory can peak, in order."""

    FORWARD = "forward"
    """The layers' forward, and the loss."""
    LOSS = "loss"
    """The backward of the loss and the head."""
    LAYERS = "layers"
    """The backward of the layers."""
    EMBEDDING = "embedding"
    """The end of the backward, and clipping."""
    STEP = "step"
    """The optimizer's update."""


class TraceResult(Message):
    """Peaks of one rank on fake tensors; nothing outside tensors is in them."""

    probe_id: str
    peak_bytes: int
    phases: dict[StepPhase, int]
    """Phase → the most bytes of tensors that were alive in it."""
    num_layers: int
    traced_layers: tuple[int, ...]
    """Depths that were really traced; from two of them the others follow."""
    seconds: float


def failure(
    request: ProbeRequest, outcome: Outcome, reason: str, *, phase: Phase = Phase.START, seconds: float = 0.0
) -> ProbeResult:
    """The result of a probe of which no rank could report."""
    return ProbeResult(
        probe_id=request.probe_id, outcome=outcome, phase=phase, reason=reason, seconds=seconds
    )


PRECEDENCE: Sequence[Outcome] = (
    Outcome.INVALID,
    Outcome.OUT_OF_MEMORY,
    Outcome.NON_FINITE,
    Outcome.TIMED_OUT,
    Outcome.CRASHED,
    Outcome.INTERRUPTED,
    Outcome.OUTPACED,
    Outcome.MEASURED,
)
"""Which rank's outcome is the cause and which a consequence: when one rank runs out of memory, its
peers crash on a lost connection. Of several with the same outcome, one that lost no peer is the cause."""
