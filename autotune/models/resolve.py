"""MODEL as the user writes it → what a probe builds and what the forecast needs to know."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autotune.errors import BadInput
from autotune.models import presets
from autotune.models.closed_form import shape_of
from autotune.models.described import describe
from autotune.models.hf import CleanConfig, clean, read_config
from autotune.models.shape import ModelShape
from autotune.models.strict_json import plain_object
from trials.contract.message import nearest
from trials.contract.messages import ModelSpec

FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
NAME = re.compile(r"[^\W_][\w .+:/@-]{0,79}")
MAX_PARAMETERS = 10**14
"""Fifty times the largest model reported: beyond it a size in the configuration is a slip."""


@dataclass(frozen=True)
class ResolvedModel:
    spec: ModelSpec
    shape: ModelShape
    notes: tuple[str, ...] = ()
    """Sentences on what was left out or assumed."""


def resolve(model: str | Mapping[str, Any], name: str | None = None) -> ResolvedModel:
    """Resolve a preset's name, a config.json or its folder, `package.module:factory`, or the object that a
    config.json holds.

    `name` is what people shall call it; None: as the preset, the folder or the factory, an object by its
    model_type. Presets and known families take milliseconds; other families and factories are built in a
    process of their own, within its deadline. Raises BadInput where `model` is none of these or cannot be
    used.
    """
    if name is not None and not NAME.fullmatch(name):
        raise BadInput(
            f"{name[:80]!r} cannot be a model's name; use up to 80 letters, digits, spaces and -_.+:/@, "
            "with a letter or digit first"
        )
    found = _from_text(model) if isinstance(model, str) else _from_object(model, name)
    if name is None:
        return found
    return replace(found, spec=found.spec.model_copy(update={"name": name}))


def _from_object(given: Mapping[str, Any], name: str | None) -> ResolvedModel:
    source = "the model's configuration"
    found = clean(plain_object(given, source), source)
    return _from_config(name or str(found.config["model_type"]), found)


def _from_text(text: str) -> ResolvedModel:
    if text.lower() in presets.names():
        name = text.lower()
        return _from_config(name, clean(presets.load(name), f"preset {name}"))
    path = Path(text)
    if text and _exists(path):  # Path("") would be the current folder
        return _from_config(_name(path), read_config(path))
    if FACTORY.fullmatch(text):
        return _from_factory(text)
    raise BadInput(_what_is_wrong(text))


def _what_is_wrong(text: str) -> str:
    if text.endswith(".json"):
        return f"no such file: {text[:200]!r}"
    guess, known = text.rpartition("/")[2].lower()[:80], list(presets.names())
    if "/" in text:
        near = nearest(guess, known, otherwise="; of a model on the Hub, its config.json is needed here")
        return f"no such file or folder: {text[:200]!r}{near}"
    near = nearest(guess, known, otherwise="; `autotune models` lists the presets")
    return (
        f"{text[:200]!r} is no preset, nor the path of a config.json or of its folder, nor"
        f" package.module:factory{near}"
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def _name(path: Path) -> str:
    """What to call the model of a config.json: by its folder, unless the file itself says more."""
    path = path.absolute()
    if path.is_dir():
        return path.name
    return path.parent.name if path.name == "config.json" else path.stem


def _from_config(name: str, clean_config: CleanConfig) -> ResolvedModel:
    spec = ModelSpec(name=name, hf_config=clean_config.config)
    shape, notes = shape_of(clean_config.config), clean_config.notes
    if shape is None:
        description = describe(spec)
        shape, notes = description.shape, (*notes, *description.notes)
    return _bounded(ResolvedModel(spec, shape, notes))


def _from_factory(text: str) -> ResolvedModel:
    spec = ModelSpec(name=text, factory=text, factory_path=str(Path.cwd()))
    description = describe(spec)
    spec = spec.model_copy(update={"factory_version": description.factory_version})
    return _bounded(ResolvedModel(spec, description.shape, description.notes))


def _bounded(model: ResolvedModel) -> ResolvedModel:
    if model.shape.num_parameters > MAX_PARAMETERS:
        raise BadInput(
            f"{model.spec.name} would have {model.shape.num_parameters:.1e} parameters;"
            " check the sizes in its configuration"
        )
    return model
