"""What users type, and what it stands for; each raises BadInput with one sentence that names the option."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import BadInput

if TYPE_CHECKING:
    from autotune.service import Service
    from autotune.settings import Settings
    from search_spaces.columns import Value
    from trials.contract.config import TrainingConfig

MAX_BASELINE_BYTES = 64 * 1024


def environment() -> "Settings":
    from autotune.settings import Settings

    return Settings()


def service(url: str | None) -> "Service":
    from autotune.service import Service

    return Service(storage(url))


def storage(url: str | None) -> str:
    """The database that is named, or else the environment's."""
    return environment().storage if url is None else url


def given(option: str, text: str | None) -> str | None:
    """`text`, which may be left out, but not be empty: an empty variable of a script is no wish."""
    if text is not None and not text.strip():
        raise BadInput(f"{option} is empty; leave it out, or say which")
    return text


def job_name(name: str | None) -> str | None:
    from autotune.jobs import JobSpec

    pattern = JobSpec.model_json_schema()["properties"]["name"]["pattern"]
    if given("--name", name) is not None and not re.fullmatch(pattern, str(name)):
        raise BadInput(
            f"--name {str(name)[:80]!r} cannot be a job's name; use up to 63 letters, digits, dots, dashes "
            "and underscores, with a letter or digit first"
        )
    return name


def settings(option: str, texts: list[str]) -> "dict[str, tuple[Value, ...]]":
    """`field=value,value` pairs as a mapping from fields to their values, each field once."""
    from search_spaces.dimensions import parse_setting
    from trials.contract.message import ContractError

    found: dict[str, tuple[Value, ...]] = {}
    for text in texts:
        try:
            field, values = parse_setting(text)
        except ContractError as error:
            raise BadInput(f"{option}: {error}") from error
        if field in found:
            raise BadInput(f"{option}: {field} is set twice; write {field}=value,value to allow several")
        found[field] = values
    return found


def baseline(text: str | None) -> "TrainingConfig | None":
    """A JSON file of a TrainingConfig, or field=value pairs."""
    from trials.contract.config import TrainingConfig
    from trials.contract.message import ContractError

    if text is None or given("--baseline", text) is None:
        return None
    is_file = "=" not in text or text.endswith(".json")
    fields = _object_in(text) if is_file else one_value_each("--baseline", text)
    try:
        return TrainingConfig.parse(fields)
    except ContractError as error:
        raise BadInput(f"--baseline {text[:200]}: {error}") from error


def one_value_each(option: str, text: str) -> dict[str, Any]:
    """`field=value,field=value`."""
    pairs = text.split(",")
    if several := [pair for pair in pairs if "=" not in pair]:
        raise BadInput(
            f"{option}: {several[0]!r} sets nothing; write field=value,field=value, one value each"
        )
    return {field: value for field, (value,) in settings(option, pairs).items()}


def _object_in(path: str) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_BASELINE_BYTES + 1)
        if len(text) > MAX_BASELINE_BYTES:
            raise BadInput(f"--baseline {path} is larger than 64 KiB, so it is not a configuration")
        fields = json.loads(text)
    except OSError as error:
        raise BadInput(
            f"--baseline {path[:200]}: {error.strerror}; give a JSON file, or field=value,field=value"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"--baseline {path} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BadInput(f"--baseline {path} must hold a JSON object, the fields of a configuration")
    return fields
