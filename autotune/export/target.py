"""What is exported: a configuration with all that a launch script has to know beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.errors import BadInput
from trials.contract.capabilities import Refusal
from trials.contract.config import TrainingConfig
from trials.contract.constants import EngineConstants
from trials.contract.messages import DeviceKind


@dataclass(frozen=True)
class Target:
    config: TrainingConfig
    model_name: str
    world_size: int
    """Ranks over all nodes; one device each."""
    num_nodes: int
    gpus_per_node: int
    """Ranks on each node; on CPU too."""
    device: DeviceKind
    constants: EngineConstants
    layer_class: str | None
    """Class of the transformer block, such as `LlamaDecoderLayer`; None where it is not known."""
    job_name: str
    evidence: str
    """One sentence: what was measured or forecast."""

    def __post_init__(self) -> None:
        if self.world_size != self.num_nodes * self.gpus_per_node:
            raise ValueError(
                f"{self.num_nodes} nodes with {self.gpus_per_node} ranks each are not {self.world_size} ranks"
            )


def refuse(target: Target, tool: str, rows: Sequence[Refusal]) -> None:
    """Raise BadInput with the reason of the first of `rows` that is about `target`.

    Tensor, pipeline and context parallelism are refused for every tool that calls this.
    """
    for row in rows:
        if row.applies_to(frozenset({target.device})) and row.matches(target.config):
            raise BadInput(f"this configuration cannot be exported to {tool}: {row.reason}")
    if target.config.model_parallel_size > 1:
        raise BadInput(
            f"this configuration cannot be exported to {tool}: its tensor, pipeline and context parallel "
            "sizes are the training script's business; use --to torchrun, which writes them down"
        )
