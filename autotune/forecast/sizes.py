"""`Sizes`: parameter counts of a model that memory and compute depend on."""

from dataclasses import dataclass

from autotune.forecast.styles import style_of
from autotune.models.shape import ModelShape


@dataclass(frozen=True)
class Sizes:
    layer: float
    """One layer; the mean, where layers differ."""
    other: float
    """In neither a layer nor a vocabulary matrix."""
    vocabulary: float
    """One vocabulary matrix."""
    matrices: int
    """Vocabulary matrices: input and head, or one for both."""
    experts: float
    """Of a layer, those of its experts, which are stacked along their number; 0 without."""
    linear: float
    """Matmul weights of a layer, of all experts."""
    active_experts: float
    """Of experts, those that one token passes."""
    active_dense: float
    """Those that every token passes."""
    cast_linear: float
    """Those that autocast makes copies of: all but the experts', which are no `nn.Linear`."""
    linear_inputs: float
    """Numbers per token that every `nn.Linear` of a layer reads."""
    linear_outputs: float
    """Those that it writes."""

    @property
    def active_linear(self) -> float:
        """Matmul weights of a layer that one token passes."""
        return self.active_dense + self.active_experts

    @property
    def adapter(self) -> float:
        """LoRA weights of a layer, per unit of rank."""
        return self.linear_inputs + self.linear_outputs

    @classmethod
    def of(cls, shape: ModelShape) -> "Sizes":
        h, q, k, f = shape.hidden_size, shape.query_size, shape.kv_size, shape.intermediate_size
        style, projections = style_of(shape), 3 if shape.gated_mlp else 2
        attention = 2 * h * q + 2 * h * k
        router = h * shape.num_experts if shape.stacks_experts else 0
        matrices = 1 if shape.tied_embeddings else 2
        dense = 0 if shape.stacks_experts else projections * h * f
        experts = projections * h * f * shape.num_experts if shape.stacks_experts else 0
        ends = matrices * shape.embedding_parameters + shape.other_parameters
        return cls(
            layer=(shape.num_parameters - ends) / shape.num_layers,
            other=shape.other_parameters,
            vocabulary=shape.embedding_parameters,
            matrices=matrices,
            experts=experts,
            linear=attention + router + projections * h * f * shape.num_experts,
            active_experts=projections * h * f * shape.experts_per_token if experts else 0,
            active_dense=attention + router + dense,
            cast_linear=shape.measured.cast_weights if shape.measured else attention + router + dense,
            linear_inputs=style.attention_readers * h
            + q
            + (0 if experts else style.feed_forward_readers * h + f),
            linear_outputs=q + 2 * k + h + (0 if experts else (projections - 1) * f + h),
        )
