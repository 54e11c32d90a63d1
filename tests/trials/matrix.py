"""What runs where, by the capabilities and by what is tested; `python tests/trials/matrix.py` prints it.

On CPU an option `runs` under a sharding where `test_engines.py` or `test_parallel.py` trains the two together
against one fp32 process. On CUDA it does where `test_on_gpu.py` did so on a GPU, which wrote it down.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pairs import COMPILED, covering, legal
from probes import CPU
from test_parallel import BESIDE, CONTEXT, FOUR, SCHEDULE, STAGES, TENSOR, TWO

from trials.contract.capabilities import PARALLELISM, Feature, refusal, refusals
from trials.contract.config import Sharding, TrainingConfig, choices

GPU_RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "gpu_engines.json"
CUDA: frozenset[Feature] = frozenset({"cuda", "bf16", "fp16", "fp8"})
SHARDINGS = get_args(Sharding)
SPLITS = (TENSOR, STAGES, CONTEXT)
SHOWN = (
    "precision", "optimizer", "adaptation", "base_weights", "quantization_aware", "activation_checkpointing",
    "attention", "loss", "compile", "offload",
)  # fmt: skip
HEAD = """# What each engine runs

Written by `make engines`; a test holds it to what the capabilities refuse and what the tests train.

On CPU, *runs* means: trained with that sharding on real ranks, and losses and gradient norms of three steps
agree with one fp32 process. On CUDA (with bf16 and fp8) it means the same, on one rank of a real GPU
({gpu}). A number is the reason why not, below.
"""


def trained() -> set[tuple[str, str, Any]]:
    """Sharding, field and value of what the tests train together."""
    configs: list[Mapping[str, Any]] = [*covering(legal(CPU, without=COMPILED)), *TWO, *FOUR]
    compiled = [(name, s) for name in COMPILED for s in ("ddp", "fsdp", "zero2")]
    configs += [{n: COMPILED[n], "sharding": s} for n, s in compiled if (n, s) != ("optimizer", "zero2")]
    return together(configs)


def trained_beside() -> set[tuple[str, str, Any]]:
    """Parallel size, field and value of what the tests train together on CPU."""
    split = [(size, fields) for fields in (*TWO, *FOUR) for size in SPLITS if size in fields]
    return {(size, field, value) for size, fields in (*BESIDE, *split) for field, value in fields.items()}


def why_not_beside(size: str, field: str, value: Any) -> str | None:
    """Why no configuration has both, whatever its sharding."""
    shardings = [value] if field == "sharding" else ["ddp", "fsdp"]
    configs = (TrainingConfig(**{size: 2, "sharding": sharding, field: value}) for sharding in shardings)
    reasons = [refusal(config, CPU) for config in configs]
    return None if None in reasons else reasons[0]


def trained_on_gpu() -> set[tuple[str, str, Any]]:
    return together([row["config"] for row in _gpu_record()["trained"]])


def together(configs: Iterable[Mapping[str, Any]]) -> set[tuple[str, str, Any]]:
    """Sharding, field and value of what some configuration has."""
    return {
        (fields.get("sharding", "ddp"), field, value) for fields in configs for field, value in fields.items()
    }


def _gpu_record() -> dict[str, Any]:
    if not GPU_RECORD.exists():
        return {"versions": {}, "trained": []}
    found: dict[str, Any] = json.loads(GPU_RECORD.read_text())
    return found


def why_not(sharding: str, field: str, value: Any, features: frozenset[Feature]) -> str | None:
    """Why no configuration has both, where a row of the capabilities is about them."""
    size = STAGES if field == SCHEDULE else field
    for row in refusals(features):
        if row.parallel:
            if (
                row.parallel == (size,)
                and set(row.values) == {"sharding"}
                and sharding in row.values["sharding"]
            ):
                return row.reason
            continue
        about = {"sharding": sharding, field: value}
        if set(row.values) <= set(about) and all(
            about[name] in values for name, values in row.values.items()
        ):
            return row.reason
    return None


def options() -> Iterator[tuple[str, Any]]:
    for field in SHOWN:
        yield from ((field, value) for value in choices(field) or ())
    yield from ((size, 2) for size in (TENSOR, STAGES, CONTEXT))
    yield SCHEDULE, "gpipe"


def matrix() -> str:
    runs = {CPU: trained(), CUDA: trained_on_gpu()}
    reasons = list[str]()

    def cell(reason: str | None, trained_together: bool) -> str:
        if reason is None:
            return "runs" if trained_together else "untested"
        if reason not in reasons:
            reasons.append(reason)
        return str(reasons.index(reason) + 1)

    versions = _gpu_record()["versions"]
    gpu = (
        f" ({versions['device_name']}, torch {versions['torch']})" if versions else ", which was not had yet"
    )
    lines = [HEAD.format(gpu=gpu)]
    for title, features in (("CPU", CPU), ("CUDA", CUDA)):
        lines += [f"## {title}\n", "| | " + " | ".join(SHARDINGS) + " |", "|---" * (len(SHARDINGS) + 1) + "|"]
        for field, value in options():
            cells = [
                cell(why_not(s, field, value, features), (s, field, value) in runs[features])
                for s in SHARDINGS
            ]
            lines.append(f"| {field}={str(value).lower()} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += [
        "## Ranks that share a replica, on CPU\n",
        "| | " + " | ".join(PARALLELISM[size] for size in SPLITS) + " |",
        "|---" * (len(SPLITS) + 1) + "|",
    ]
    beside = trained_beside()
    for field, value in [("sharding", s) for s in SHARDINGS] + [o for o in options() if o[0] in SHOWN]:
        cells = [cell(why_not_beside(s, field, value), (s, field, value) in beside) for s in SPLITS]
        lines.append(f"| {field}={str(value).lower()} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Which families of models can be split is a table in `trials/contract/capabilities.py`.",
        "",
    ]
    lines += ["## Why not\n", *(f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)), ""]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(matrix(), end="")
