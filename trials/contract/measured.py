"""What was measured of a model's layers on fake tensors: by `trials.layer_bytes`, for the forecast."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

PRECISIONS = ("bf16_pure", "fp32", "bf16")
"""How layers compute: in two bytes, in four, or from four-byte weights by autocast."""
ATTENTIONS = ("sdpa", "windowed", "eager")
"""`windowed` is sdpa in a sequence that is longer than what some layers look back over."""
CHECKPOINTINGS = ("none", "selective", "full")


@dataclass(frozen=True)
class Bytes:
    """A number of bytes, linear in the tokens of a microbatch and in the scores of its attention."""

    per_token: float = 0.0
    per_key: float = 0.0
    """For each token, and each token of its sequence."""
    fixed: float = 0.0
    """Whatever the tokens: weights in another format, gradients that are being made."""
    gradients: float = 0.0
    """Whatever the tokens: finished gradients of weights."""


@dataclass(frozen=True)
class Variant:
    """One way to run the layers. The moments are those that can be the largest of their phase.

    Tokens count on top of what the layers that have run, and have not gone backward, keep; the rest counts
    from the beginning of the layer, or in the loss from the end of the last one.
    """

    precision: str
    attention: str
    checkpointing: str
    kept: Bytes
    """By one layer for its backward, in the mean; `fixed` are its weights that autocast has cast."""
    forward: tuple[Bytes, ...]
    """In the forward of a layer, when what it keeps counts as kept already."""
    head: tuple[Bytes, ...]
    """Between the last layer and the loss."""
    loss: tuple[Bytes, ...]
    """In the backward of the loss and the head."""
    backward: tuple[Bytes, ...]
    """In the backward of a layer, with what it recomputes."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        def moments(name: str) -> tuple[Bytes, ...]:
            return tuple(Bytes(**moment) for moment in data[name])

        return cls(
            precision=data["precision"],
            attention=data["attention"],
            checkpointing=data["checkpointing"],
            kept=Bytes(**data["kept"]),
            forward=moments("forward"),
            head=moments("head"),
            loss=moments("loss"),
            backward=moments("backward"),
        )


@dataclass(frozen=True)
class MeasuredLayers:
    variants: tuple[Variant, ...]
    """For every precision and checkpointing; an attention that the model does not have is left out."""

    @property
    def cast_weights(self) -> float:
        """Weights of a layer, in the mean, of which autocast makes copies of two bytes."""
        autocast = (variant for variant in self.variants if variant.precision == "bf16")
        return next((variant.kept.fixed / 2 for variant in autocast), 0.0)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` wrote, through JSON or not."""
        return cls(tuple(Variant.from_dict(variant) for variant in data["variants"]))
