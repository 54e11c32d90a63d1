"""What autotune knows by name, and what it finds here, as rows."""

from typing import Any

from autotune.hardware import catalog
from autotune.hardware.detect import detect
from autotune.models import presets
from autotune.models.resolve import resolve
from search_spaces.space import SearchSpace


def known_models() -> list[dict[str, Any]]:
    rows = []
    for name in presets.names():
        shape = resolve(name).shape
        rows.append(
            {
                "name": name,
                "parameters": shape.num_parameters,
                "layers": shape.num_layers,
                "hidden_size": shape.hidden_size,
                "heads": shape.num_heads,
                "kv_heads": shape.num_kv_heads,
                "vocab_size": shape.vocab_size,
                "experts": shape.num_experts,
            }
        )
    return rows


def known_gpus() -> list[dict[str, Any]]:
    return [
        {
            "name": entry.gpu.name,
            "memory_gib": round(entry.gpu.memory_bytes / 2**30, 1),
            "bandwidth_gb_per_s": entry.gpu.bandwidth_gb_per_s,
            "bf16_tflops": entry.gpu.tflops.get("bf16"),
            "link_gb_per_s": entry.gpu.link_gb_per_s,
            "features": sorted(entry.gpu.features),
            "source": entry.gpu.source,
        }
        for entry in catalog.entries()
    ]


def devices_here(ray_address: str | None) -> list[dict[str, Any]]:
    """What `--gpus auto` would take."""
    return [
        {
            "name": group.gpu.name,
            "kind": group.gpu.kind,
            "nodes": group.num_nodes,
            "per_node": group.gpus_per_node,
            "memory_gib_each": round(group.gpu.memory_bytes / 2**30, 1),
        }
        for group in detect(ray_address).groups
    ]


def known_spaces() -> list[dict[str, Any]]:
    spaces = [SearchSpace.load(name) for name in SearchSpace.names()]
    return [
        {
            "name": space.name,
            "description": space.description,
            "varies": [field for field, values in space.dimensions.items() if len(values) > 1],
        }
        for space in spaces
    ]
