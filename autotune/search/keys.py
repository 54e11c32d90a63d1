"""What a measurement depends on, as one key: equal keys, same measurement."""

import hashlib
import json

from autotune.jobs import JobSpec
from trials.contract.config import TrainingConfig
from trials.contract.messages import ProbeResult


def measurement_key(spec: JobSpec, config: TrainingConfig, result: ProbeResult) -> str:
    """Sixteen hex digits over model, configuration with constants, world, layout, device and versions.

    The ceiling is no part of it: a peak under one ceiling holds under another.
    """
    groups = spec.inventory.get("groups", [])
    facts = {
        "model": spec.model.digest,
        "config": config.model_dump(mode="json"),
        "constants": result.constants and result.constants.model_dump(mode="json"),
        "world_size": spec.world_size,
        "layout": [[g.get("num_nodes"), g.get("gpus_per_node"), g.get("network_gb_per_s")] for g in groups],
        "versions": result.versions and result.versions.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
