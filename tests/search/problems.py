"""The problems that these tests search, worked out from a few words."""

from dataclasses import asdict
from typing import Any

from autotune.hardware.parse import parse_inventory
from autotune.jobs import JobSpec
from autotune.models.resolve import resolve
from autotune.search.problem import Problem, work_out
from search_spaces.space import SearchSpace

MIB = 2**20
GIB = 2**30


def make_problem(**changes: Any) -> Problem:
    """The `cpu` space for llama-20m on two CPU ranks, unless `changes` say otherwise."""
    model = resolve("llama-20m")
    inventory = parse_inventory(changes.pop("gpus", "cpu:2"))
    space = SearchSpace.load(changes.pop("space", "cpu")).narrowed(changes.pop("settings", {}))
    pinned = frozenset(changes.pop("pinned", ()))
    fields = {
        "name": "job",
        "model": model.spec,
        "shape": asdict(model.shape),
        "gpus": "as given",
        "inventory": inventory.to_dict(),
        "world_size": space.world_size or inventory.group.world_size,
        "ceiling_bytes": 4 * GIB,
        "space": space.model_dump(mode="json"),
        **changes,
    }
    return work_out(JobSpec.parse(fields), pinned)
