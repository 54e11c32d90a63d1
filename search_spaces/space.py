"""`SearchSpace`: named dimensions, read from YAML, and the legal configurations they span."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import StrictBool, StrictInt, StrictStr, field_validator

from search_spaces.columns import FIELDS, Columns, Value, column
from search_spaces.constraints import Rejection, accumulation_steps, sift
from search_spaces.dimensions import DERIVED, MAX_CONFIGURATIONS, dimension
from search_spaces.documents import read_yaml
from search_spaces.rules import Facts
from trials.contract.capabilities import WITHOUT_SDPA
from trials.contract.config import Count, TrainingConfig
from trials.contract.message import ContractError, Message, nearest

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True, eq=False)
class Enumeration:
    """Every configuration of a space: the legal ones, and how many are not, by reason."""

    columns: Columns
    """The legal ones."""
    rejected: tuple[Rejection, ...]
    """Their counts and the number of legal ones add up to `total`."""
    total: int


class SearchSpace(Message):
    """What may vary, and among which values."""

    name: str
    description: str = ""
    world_size: Count | None = None
    """Ranks the space is made for; None: all of the inventory."""
    dimensions: Mapping[str, tuple[StrictBool | StrictInt | StrictStr, ...]]
    """Field of TrainingConfig → its choices; a field that is not named keeps its default."""

    @field_validator("dimensions", mode="before")
    @classmethod
    def _expand(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            raise ValueError(f"a mapping from fields to values is needed, not {given!r}")
        dimensions = {str(field): dimension(str(field), values) for field, values in given.items()}
        total = math.prod(len(values) for values in dimensions.values())
        if total > MAX_CONFIGURATIONS:
            widest = max(dimensions, key=lambda field: len(dimensions[field]))
            raise ValueError(
                f"{total} configurations are more than the {MAX_CONFIGURATIONS} a space may have; narrow "
                f"{widest}, which has {len(dimensions[widest])} values"
            )
        return dimensions

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The shipped spaces."""
        return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))

    @classmethod
    def load(cls, given: str | Path | Mapping[str, Any]) -> Self:
        """A shipped space by name, a YAML file, or what such a file holds.

        A file without `name` is called after itself, its content `custom`. Raises ContractError with one
        sentence that names the file.
        """
        return cls._named(given) if isinstance(given, str | Path) else cls._given(given)

    @classmethod
    def _given(cls, content: Mapping[str, Any]) -> Self:
        try:
            return cls.parse({"name": "custom", **content})
        except ContractError as error:
            raise ContractError(f"the space: {error}") from error

    @classmethod
    def _named(cls, name_or_path: str | Path) -> Self:
        names = cls.names()
        path = PRESETS / f"{name_or_path}.yaml" if str(name_or_path) in names else Path(name_or_path)
        if not _is_file(path):
            raise ContractError(
                f"no space and no file is called {str(name_or_path)!r}{nearest(path.stem, list(names))}"
            )
        try:
            return cls.parse({"name": path.stem, **read_yaml(path)})
        except ContractError as error:
            raise ContractError(f"{path}: {error}") from error

    def narrowed(self, settings: Mapping[str, Sequence[Value]]) -> Self:
        """The same space with the choices of `settings` in place of its own, for any field.

        Raises ContractError for a field or value that TrainingConfig does not know.
        """
        return self.parse({**self.model_dump(), "dimensions": {**self.dimensions, **settings}})

    def enumerate(self, facts: Facts) -> Enumeration:
        """The whole product of the dimensions, sifted by what is legal under `facts`.

        The accumulation is derived (`accumulation_steps`) unless it is pinned; a pinned one is taken as
        it is, and the global batch follows from it. Raises ContractError when the space is made for
        another world than that of `facts`.
        """
        if self.world_size not in (None, facts.world_size):
            raise ContractError(
                f"the space {self.name!r} is for {self.world_size} ranks, not for {facts.world_size}"
            )
        columns = self._product(facts)
        if DERIVED in self.dimensions:
            facts = replace(facts, global_batch_size=None)
        else:
            columns = columns.replace(DERIVED, accumulation_steps(columns, facts))
        legal, rejected = sift(columns, facts)
        return Enumeration(columns.select(legal), rejected, len(columns))

    def _product(self, facts: Facts) -> Columns:
        """Every combination of the choices; the last field varies fastest, single values have stride 0."""
        choices = {
            field: column(field, self.dimensions.get(field, (_default(field, facts),))) for field in FIELDS
        }
        total = math.prod(len(array) for array in choices.values())
        values, repeats = {}, total
        for field, array in choices.items():
            if len(array) == 1:
                values[field] = np.broadcast_to(array, total)
                continue
            repeats //= len(array)
            values[field] = np.tile(np.repeat(array, repeats), total // (repeats * len(array)))
        return Columns(values)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file system takes
        return False


def _default(field: str, facts: Facts) -> Value:
    if field == "attention" and facts.model_type in WITHOUT_SDPA:
        return "eager"
    value: Value = TrainingConfig.model_fields[field].default
    return value
