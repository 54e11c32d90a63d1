"""Memory and speed as forecast, as traced and as calibrated, against real probes on this machine.

Random configurations of several models, over every engine, are probed on one and two cores or, with
`--device cuda`, on one GPU; beside the forecast stand DeepSpeed's and accelerate's estimators. Memory is that
of a rank's tensors: on CPU the resident peak less what the forecast has outside of them. For the calibrated
figures three probes of a model are drawn (40 times) and the others forecast with what they taught; the traces
are scaled by the same three. A false fit is a row that the forecast lets fit, with the default headroom,
under a ceiling that is too small.

Figures are given of all rows, and of those with enough tokens in a microbatch for their activations to be
larger than the blocks that malloc keeps. Then of each further option that decides memory (adapters, formats
of weights, optimizers, offload, model parallelism), with enough tokens.

    python benchmarks/forecast_against_probes.py [--device cpu] [--rows 20] [--seeds 0 1] [--options 2]

prints a table and writes results/forecast_against_probes.json (of a GPU, forecast_against_gpu.json). With
--replay the probes recorded there are used again, but for those of options named after --again, and seeds and
options that are not there are probed; with --minutes no probe begins after so many; with --untraced traces
are left to a later replay. The constants of CPUs were chosen by the rows of seed 0; others are unseen.
"""

import argparse
import json
import logging
import math
import os
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from types import MappingProxyType
from typing import Any

import numpy as np
from cases import CASES, PLAIN, Cases
from machine import RESULTS, save
from probed import Probes, Row, recorded

from autotune.forecast.calibration import Calibration
from search_spaces.columns import Columns
from trials.contract.messages import DeviceKind

DRAWS = 40
PROBES = 3
HEADROOM = 0.05
NAMES: Mapping[DeviceKind, str] = MappingProxyType(
    {"cpu": "forecast_against_probes", "cuda": "forecast_against_gpu"}
)
"""Of the results."""


def all_rows(
    probes: Probes, known: Sequence[Row], seeds: Sequence[int], rows_per_case: int, rows_per_option: int
) -> Iterator[Row]:
    for seed in seeds:
        found = [row for row in known if row.seed == seed and row.option == PLAIN]
        yield from found or probes.plain(rows_per_case, seed)
    found = [row for row in known if row.option != PLAIN]
    yield from found
    have = {(row.option, row.case.world_size) for row in found}
    yield from probes.of_options(rows_per_option, have, seeds[0])


def figures(errors: Iterable[float]) -> dict[str, Any]:
    """Of signed relative errors, where there are any."""
    listed = [float(error) for error in errors]
    if not listed:
        return {"rows": 0}
    return {
        "rows": len(listed),
        "mean_absolute_error": mean(map(abs, listed)),
        "worst_over": max(listed),
        "worst_under": min(listed),
        "false_fits": sum(error < -HEADROOM for error in listed),
    }


def after_probes(rows: Sequence[Row], seed: int) -> Iterator[tuple[Row, int, int, float, int | None]]:
    """Of each row that was not among the three: tensor, device and cautious bytes, tokens/s, scaled trace."""
    rng = random.Random(seed)
    cases = {row.case: [one for one in rows if one.case == row.case] for row in rows}
    for case, of_case in cases.items():
        whole = case.forecast([row.config for row in of_case])
        columns = Columns.of([row.config for row in of_case])
        for _ in range(DRAWS):
            drawn = rng.sample(range(len(of_case)), min(PROBES, len(of_case) - 1))
            taught = Calibration([of_case[index].observation for index in drawn])
            found = taught.apply(case.spec.digest, case.world_size, columns, whole)
            scale = [
                of_case[i].tensor_bytes / traced_bytes
                for i in drawn
                if (traced_bytes := of_case[i].traced_bytes) is not None
            ]
            for index, row in enumerate(of_case):
                if index not in drawn:
                    rescaled = row.traced_bytes and scale and int(row.traced_bytes * np.median(scale))
                    yield (
                        row,
                        int(found.forecast.reserved_bytes[index]),
                        int(found.cautious_bytes[index]),
                        float(found.forecast.tokens_per_second[index]),
                        rescaled or None,
                    )


def memory(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Before anything was probed."""

    def errors(of: Callable[[Row], int | float | None]) -> list[float]:
        return [value / row.tensor_bytes - 1 for row in rows if (value := of(row)) is not None]

    return {
        "memory: forecast": figures(errors(lambda row: int(row.forecast.reserved_bytes[0]))),
        "memory: trace": figures(errors(lambda row: row.traced_bytes)),
        "memory: deepspeed": figures(errors(lambda row: row.estimates.get("deepspeed"))),
        "memory: accelerate": figures(errors(lambda row: row.estimates["accelerate"])),
        "device: forecast": figures(row.forecast.device_bytes[0] / row.device_bytes - 1 for row in rows),
    }


def compare(rows: Sequence[Row], seed: int) -> dict[str, dict[str, Any]]:
    drawn = list(after_probes(rows, seed))
    false_fits = [
        cautious for row, _, cautious, _, _ in drawn if cautious < row.device_bytes * (1 - HEADROOM)
    ]
    speed = [float(row.forecast.tokens_per_second[0]) / row.tokens_per_second - 1 for row in rows]
    return {
        **memory(rows),
        "memory: forecast after 3 probes": figures(t / row.tensor_bytes - 1 for row, t, *_ in drawn),
        "memory: trace after 3 probes": figures(t / row.tensor_bytes - 1 for row, *_, t in drawn if t),
        "speed: forecast": figures(speed),
        "speed: forecast after 3 probes": figures(s / row.tokens_per_second - 1 for row, _, _, s, _ in drawn),
        "false fits after 3 probes": {"rows": len(drawn), "false_fits": len(false_fits)},
    }


def _traced_error(row: Row) -> str:
    return f"{row.traced_bytes / row.tensor_bytes - 1:+7.1%}" if row.traced_bytes else "      –"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=20, help="per model and world")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--options", type=int, default=2, help="per option and world")
    parser.add_argument("--device", choices=CASES, default="cpu")
    parser.add_argument("--minutes", type=float, default=math.inf, help="for probes")
    parser.add_argument("--untraced", action="store_true", help="leave traces to a replay")
    parser.add_argument("--replay", action="store_true", help="compare with the probes that are recorded")
    parser.add_argument("--again", nargs="+", default=[], metavar="OPTION", help="not with those of these")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    rows: list[Row] = []
    probes = Probes(arguments.device, arguments.minutes, not arguments.untraced)
    stored = json.loads(_path(arguments.device).read_text()) if arguments.replay else {"rows": []}
    stored["rows"] = [row for row in stored["rows"] if row["option"] not in arguments.again]
    known = list(recorded(stored))
    try:
        for row in all_rows(probes, known, arguments.seeds, arguments.rows, arguments.options):
            rows.append(row)
            show(row)
    finally:  # what was probed is kept, however it ended
        figures_of = compute_figures(rows, arguments.seeds, CASES[arguments.device])
        result = {"seeds": arguments.seeds, "figures": figures_of, "rows": [row.to_dict() for row in rows]}
        measured_on = stored["machine"] if len(rows) == len(known) > 0 else None
        path = save(NAMES[arguments.device], result, measured_on)
        print(f"written to {path}")


def show(row: Row) -> None:
    predicted, config = row.forecast, row.config
    print(
        f"{row.case.name:10} × {row.case.world_size}  {config.sharding:5} {config.precision:9} "
        f"{config.activation_checkpointing:9} {config.attention:5} {config.optimizer:5} "
        f"{config.micro_batch_size} × {config.sequence_length} × {config.gradient_accumulation_steps}  "
        f"{row.option:26}{row.tensor_bytes / 2**20:6.0f} MiB "
        f"forecast {predicted.reserved_bytes[0] / row.tensor_bytes - 1:+7.1%} "
        f"trace {_traced_error(row)} "
        f"speed {predicted.tokens_per_second[0] / row.tokens_per_second - 1:+7.1%}",
        flush=True,
    )


def compute_figures(every_row: Sequence[Row], seeds: Sequence[int], cases: Cases) -> dict[str, Any]:
    """Of each group of rows, printed too."""
    of_options = [row for row in every_row if row.option != PLAIN]
    rows = [row for row in every_row if row.option == PLAIN]
    enough = [r for r in rows if r.config.micro_batch_size * r.config.sequence_length >= cases.enough_tokens]
    groups = {"all": rows, f"from {cases.enough_tokens} tokens": enough}
    for seed in seeds:
        groups[f"seed {seed}, from {cases.enough_tokens} tokens"] = [r for r in enough if r.seed == seed]
    found = {name: compare(of_group, seeds[0]) for name, of_group in groups.items() if of_group}
    for name in cases.options:
        of_option = [row for row in of_options if row.option == name]
        found[name] = {key: of for key, of in memory(of_option).items() if of["rows"]}
    for group, figures_of in found.items():
        print(group)
        for name, of in figures_of.items():
            print(f"  {name:34}", "  ".join(f"{key} {value:.3g}" for key, value in of.items()))
    return found


def _path(device: DeviceKind) -> Path:
    return RESULTS / f"{NAMES[device]}.json"


if __name__ == "__main__":
    main()
