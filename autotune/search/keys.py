"""What a measurement depends on, as one key: equal keys, same measurement."""

import hashlib
import json
from typing import Any

from autotune.jobs import JobSpec
from trials.contract.config import TrainingConfig
from trials.contract.constants import engine_constants
from trials.contract.messages import Versions


def context_key(spec: JobSpec, versions: Versions | None) -> str:
    """Sixteen hex digits over all that the probes of a job have in common: model, world, layout, device,
    versions, and the constants of the engines. The ceiling is no part of it: a peak under one ceiling holds
    under another.
    """
    groups = spec.inventory.get("groups", [])
    return _digest(
        {
            "model": spec.model.digest,
            "constants": engine_constants(spec.shape["num_parameters"]).model_dump(mode="json"),
            "world_size": spec.world_size,
            "layout": [
                [g.get("num_nodes"), g.get("gpus_per_node"), g.get("network_gb_per_s")] for g in groups
            ],
            "versions": versions and versions.model_dump(mode="json"),
        }
    )


def measurement_key(spec: JobSpec, config: TrainingConfig, versions: Versions | None) -> str:
    """The context's digits, which all of its measurements begin with, and sixteen over the configuration."""
    return context_key(spec, versions) + _digest(config.model_dump(mode="json"))


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
