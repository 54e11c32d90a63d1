"""What the legality of a configuration depends on, of one model on one group of nodes."""

from autotune.hardware.inventory import NodeGroup
from autotune.models.shape import ModelShape
from search_spaces.rules import Facts


def facts_of(
    shape: ModelShape,
    group: NodeGroup,
    world_size: int,
    *,
    global_batch_size: int | None = None,
    global_batch_tolerance: float = 0.10,
    to_probe: bool = True,
) -> Facts:
    """`to_probe=False` lets pass what can be forecast and not be probed yet."""
    return Facts(
        world_size=world_size,
        gpus_per_node=min(group.gpus_per_node, world_size),
        features=group.gpu.features,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        num_layers=shape.num_layers,
        vocab_size=shape.vocab_size,
        max_positions=shape.max_positions,
        model_type=shape.model_type,
        tied_embeddings=shape.tied_embeddings,
        intermediate_size=shape.intermediate_size,
        stacked_experts=shape.stacks_experts,
        sliding_window=shape.sliding_window,
        global_batch_size=global_batch_size,
        global_batch_tolerance=global_batch_tolerance,
        to_probe=to_probe,
    )
