"""Where a rank stands in its world: stages of a pipeline, replicas, parts of a sequence, parts of a matmul.

Ranks that talk most are nearest: tensor-parallel ones are neighbours, stages lie farthest apart.
"""

from dataclasses import dataclass

from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from trials.contract.config import TrainingConfig
from trials.engines import Setting

STAGE, REPLICATE, SHARD, CONTEXT, TENSOR = "stage", "replicate", "shard", "context", "tensor"
"""Dimensions of the mesh, outermost first. Under HSDP nodes are replicas of each other; else all
data-parallel ranks are in SHARD, whether anything is sharded over them or not."""


@dataclass(frozen=True)
class Place:
    """Coordinates of one rank."""

    stage: int
    replica: int
    """Ranks with the same one train on the same sequences."""
    context: int
    """Which part of each sequence is its own."""
    tensor: int


def place(config: TrainingConfig, world_size: int, rank: int) -> Place:
    replicas = config.data_parallel_size(world_size)
    rest, tensor = divmod(rank, config.tensor_parallel_size)
    rest, context = divmod(rest, config.context_parallel_size)
    stage, replica = divmod(rest, replicas)
    return Place(stage, replica, context, tensor)


@dataclass(frozen=True)
class Mesh:
    """The world by its dimensions, of which those that nothing is split over have size 1."""

    whole: DeviceMesh
    data: DeviceMesh
    """Ranks that train the same parameters, in one row: replicas, shards and parts of sequences."""

    def __getitem__(self, dimension: str) -> DeviceMesh:
        return self.whole[dimension]

    @property
    def nodes(self) -> DeviceMesh:
        """Data-parallel ranks, in a row for each node."""
        return self.whole[REPLICATE, SHARD]


def device_mesh(setting: Setting) -> Mesh:
    config = setting.config
    replicas = config.data_parallel_size(setting.world_size)
    nodes = setting.num_nodes if config.sharding == "hsdp" else 1
    sizes = {
        STAGE: config.pipeline_parallel_size,
        REPLICATE: nodes,
        SHARD: replicas // nodes,
        CONTEXT: config.context_parallel_size,
        TENSOR: config.tensor_parallel_size,
    }
    with unset_fake_temporarily():  # ranks are looked up in it, also in a trace
        whole = init_device_mesh(setting.device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        return Mesh(whole, whole[REPLICATE, SHARD, CONTEXT]._flatten("data"))
