"""`ModelShape`: the numbers of a decoder that memory and speed depend on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from autotune.models.families import FAMILIES
from trials.contract.measured import MeasuredLayers


@dataclass(frozen=True)
class ModelShape:
    """Sizes of one decoder-only transformer. All counts are of elements or modules."""

    model_type: str
    """Hugging Face's family name; `factory` for a user's own module."""
    num_parameters: int
    """All weights, tied ones once."""
    num_layers: int
    hidden_size: int
    intermediate_size: int
    """Feed-forward width, of one expert where there are several."""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool
    gated_mlp: bool
    """Three feed-forward matrices (SwiGLU) instead of two."""
    max_positions: int | None = None
    """Longest sequence the position embedding allows; None where it does not limit (rotary ones do not)."""
    num_experts: int = 1
    experts_per_token: int = 1
    other_parameters: int = 0
    """Weights in neither a layer nor a vocabulary matrix: learned positions, the final norm."""

    sliding_window: int | None = None
    """Tokens that attention looks back over in `windowed_layers`."""
    windowed_layers: int = 0

    measured: MeasuredLayers | None = None
    """What its layers take, where the forecast would have to guess it."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` wrote, be it through JSON, or before layers were measured."""
        measured = data.get("measured")
        return cls(**{**data, "measured": None if measured is None else MeasuredLayers.from_dict(measured)})

    @property
    def stacks_experts(self) -> bool:
        """Whether the feed-forward part is experts, be it one, stacked in parameters of their own."""
        family = FAMILIES.get(self.model_type)
        return self.num_experts > 1 or (family is not None and family.router)

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def embedding_parameters(self) -> int:
        """One vocabulary matrix."""
        return self.vocab_size * self.hidden_size

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer; the mean, where layers differ."""
        ends = self.embedding_parameters * (1 if self.tied_embeddings else 2) + self.other_parameters
        return (self.num_parameters - ends) // self.num_layers
