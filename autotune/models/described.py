"""The shape of a model that only its own code knows: built by `trials.describe` in a process of its own."""

import json
from dataclasses import dataclass, fields
from typing import Any

from autotune.errors import BadInput
from autotune.models.process import run_module
from autotune.models.shape import ModelShape
from trials.contract.messages import ModelSpec

DEADLINE_S = 120.0
"""Importing torch and transformers takes seconds, a factory that builds 7B for real under a minute."""


@dataclass(frozen=True)
class Description:
    shape: ModelShape
    factory_version: str | None
    notes: tuple[str, ...]


def describe(spec: ModelSpec, deadline_s: float = DEADLINE_S) -> Description:
    """Build the model of `spec` without memory where it allows that, and return what it is.

    Raises BadInput with the reason where it cannot be built, and MachineFault where no process starts.
    """
    finished = run_module("trials.describe", spec.to_json(), deadline_s)
    if finished.answer is None:
        last_words = f": {finished.last_line}" if finished.last_line else ""
        raise BadInput(f"building {spec.name} {finished.status}{last_words}")
    found: dict[str, Any] = json.loads(finished.answer)
    if "error" in found:
        raise BadInput(found["error"])
    return Description(
        shape=ModelShape.from_dict({item.name: found[item.name] for item in fields(ModelShape)}),
        factory_version=found["factory_version"],
        notes=tuple(found["notes"]),
    )
