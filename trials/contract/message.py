"""The base of everything that crosses a process border: frozen, JSON both ways, strict about names."""

import difflib
import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

SHOWN_CHARACTERS = 80
"""How much of what was put in a sentence quotes."""
LISTED = 12
"""How many known words a sentence lists."""
WORDS = {None: "null", True: "true", False: "false"}
"""As JSON and YAML write them."""


class ContractError(ValueError):
    """A message that does not say what it must; the text is one plain sentence."""


def nearest(word: str, known: list[str], otherwise: str | None = None) -> str:
    """Return the end of a sentence: "; did you mean 'x'?" for the closest of `known`.

    When nothing is close, `otherwise`, or the first of those that are known.
    """
    close = difflib.get_close_matches(word[:SHOWN_CHARACTERS], known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    if otherwise is not None:
        return otherwise
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f"; known are {', '.join(known[:LISTED])}{more}"


def shown(value: object) -> str:
    """What was put in, as it may stand in a sentence."""
    text = WORDS[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


class Message(BaseModel):
    """A frozen record whose unknown keys are errors that name the nearest right one."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="constants"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown field {shown(key)}{nearest(str(key), list(cls.model_fields))}")
        return data

    @classmethod
    def parse(cls, data: Mapping[str, Any] | str | bytes) -> Self:
        """Read a message from JSON text or a mapping; raise ContractError with one sentence."""
        try:
            decoded = json.loads(data) if isinstance(data, str | bytes) else data
        except (ValueError, RecursionError) as error:
            raise ContractError(f"not JSON: {error}") from error
        try:
            return cls.model_validate(decoded)
        except ValidationError as error:
            raise ContractError(sentence(error)) from error

    def to_json(self) -> str:
        return self.model_dump_json()


def sentence(error: ValidationError) -> str:
    """Condense pydantic's report to its first complaint: where, what was found, what was expected."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "literal_error":
        known = [word.strip("'") for word in first["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        message = f"{shown(first['input'])} is not a value of it{nearest(str(first['input']), known)}"
    elif first["type"] != "value_error":
        message = f"{message[0].lower()}{message[1:]}, not {shown(first['input'])}"
    return f"{where}: {message}" if where else message
