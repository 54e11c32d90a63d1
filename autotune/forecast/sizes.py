"""`Sizes`: parameter counts of a model that memory and compute depend on."""

from dataclasses import dataclass

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
    active_linear: float
    """Those that one token passes."""
    cast_linear: float
    """Those that autocast makes copies of: all but the experts', which are no `nn.Linear`."""
    adapter: float
    """LoRA weights of a layer, per unit of rank: inputs and outputs of every `nn.Linear`."""

    @classmethod
    def of(cls, shape: ModelShape) -> "Sizes":
        h, q, k, f = shape.hidden_size, shape.query_size, shape.kv_size, shape.intermediate_size
        projections = 3 if shape.gated_mlp else 2
        attention = 2 * h * q + 2 * h * k
        router = h * shape.num_experts if shape.num_experts > 1 else 0
        matrices = 1 if shape.tied_embeddings else 2
        dense = projections * h * f if shape.num_experts == 1 else 0
        experts = projections * h * f * shape.num_experts if shape.num_experts > 1 else 0
        ends = matrices * shape.embedding_parameters + shape.other_parameters
        return cls(
            layer=(shape.num_parameters - ends) / shape.num_layers,
            other=shape.other_parameters,
            vocabulary=shape.embedding_parameters,
            matrices=matrices,
            experts=experts,
            linear=attention + router + projections * h * f * shape.num_experts,
            active_linear=attention + router + projections * h * f * shape.experts_per_token,
            cast_linear=shape.measured.cast_weights if shape.measured else attention + router + dense,
            adapter=2 * (h + q) + 2 * (h + k) + (projections * (h + f) if shape.num_experts == 1 else 0),
        )
