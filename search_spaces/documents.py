"""Reading a small YAML or JSON file that a person wrote: nothing executed, no duplicate key lost, bounded."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, Never

import yaml

from trials.contract.message import ContractError

MAX_BYTES = 64 * 1024
MAX_DIGITS = 19
"""Of an integer: what 64 bits hold."""

PLAIN_TYPES = ("null", "bool", "int", "float", "str", "seq", "map")


class _Loader(yaml.SafeLoader):
    """YAML's plain types; keys that would overwrite each other and aliases are errors, dates are words."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a name", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} stands there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in PLAIN_TYPES
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in PLAIN_TYPES]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> dict[Any, Any]:
    """The mapping that a YAML file holds; raises ContractError without the name of the file."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ContractError(f"it cannot be read: {error.strerror}") from error
    if len(text) > MAX_BYTES:
        raise ContractError(f"it is larger than the {MAX_BYTES // 1024} KiB that a space may have")
    return parse_yaml(text)


def parse_yaml(text: str | bytes) -> dict[Any, Any]:
    """The mapping that YAML text holds; raises ContractError."""
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ContractError(f"not readable as YAML: {error.problem}{where}") from error
    except RecursionError as error:
        raise ContractError("nested too deeply") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ContractError(
            "not YAML of plain values: names, numbers, true and false, lists, mappings"
        ) from error
    if not isinstance(data, dict):
        raise ContractError("a mapping from names to values is needed")
    return data


def parse_json(text: str) -> Any:
    """The value of JSON text with finite numbers and no key twice; raises ContractError."""
    try:
        return json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_int=_integer,
            parse_float=_finite,
        )
    except json.JSONDecodeError as error:
        raise ContractError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise ContractError("nested too deeply") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ContractError(f"the key {twice[:60]!r} stands in it twice")
    return result


def _no_constant(text: str) -> Never:
    raise ContractError(f"{text} is not a number that JSON knows")


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS or not -(2**63) <= int(text) < 2**63:
        raise ContractError(f"the integer {text[:20]}… does not fit 64 bits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ContractError(f"the number {text[:20]} is out of range")
    return value
