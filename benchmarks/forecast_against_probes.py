"""Memory and speed as forecast, as traced and as calibrated, against real probes on this machine's CPU.

Random configurations of several models on one and two ranks, over every engine, are probed; beside the
forecast stand DeepSpeed's and accelerate's estimators. Memory is that of a rank's tensors: the resident peak
less what the forecast has outside of them. For the calibrated figures three probes of a model are drawn (40
times) and the others forecast with what they taught; the traces are scaled by the same three. A false fit is
a row that the forecast lets fit, with the default headroom, under a ceiling that is too small.

Figures are given of all rows, and of those with enough tokens in a microbatch for their activations to be
larger than the blocks that malloc keeps. Then of each further option that decides memory (adapters, formats
of weights, optimizers, offload, model parallelism), with enough tokens.

`python benchmarks/forecast_against_probes.py [--rows 20] [--seeds 0 1] [--options 2] [--replay]` prints a
table and writes results/forecast_against_probes.json; with --replay the probes recorded there are used again,
and seeds and options that are not there are probed. The constants of CPUs were chosen by the rows of seed 0;
others are unseen.
"""

import argparse
import json
import logging
import os
import random
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import mean
from typing import Any

import numpy as np
from cpu_cases import ENOUGH_TOKENS, MODELS, OPTIONS, PLAIN, SHARDINGS, WORLDS, Case
from estimators import estimates
from machine import RESULTS, save

from autotune.execution.executor import Layout
from autotune.execution.local import LocalExecutor
from autotune.forecast.calibration import Calibration, Observation, outside_bytes
from autotune.forecast.forecast import Forecast
from autotune.hardware.parse import parse_inventory
from search_spaces.columns import Columns
from trials.command import BadInput
from trials.contract.config import TrainingConfig
from trials.contract.messages import ProbeRequest, ProbeResult
from trials.trace import trace

DRAWS = 40
PROBES = 3
HEADROOM = 0.05
RECORDED = {
    "probe_id",
    "outcome",
    "phase",
    "tokens_per_second",
    "peak_bytes",
    "memory",
    "versions",
    "seconds",
}
"""Of each probe's result."""


@dataclass(frozen=True)
class Row:
    """One configuration, probed."""

    seed: int
    """Of the random configurations."""
    option: str
    case: Case
    config: TrainingConfig
    result: ProbeResult
    traced_bytes: int | None
    """None where the engine cannot be traced."""
    estimates: dict[str, int]
    """Bytes of one rank by what other tools estimate, where they do."""

    @property
    def forecast(self) -> Forecast:
        return self.case.forecast([self.config])

    @property
    def observation(self) -> Observation:
        spec = self.case.spec
        found = Observation.of(spec.digest, self.case.world_size, self.config, self.result, self.forecast)
        assert found is not None
        return found

    @property
    def device_bytes(self) -> int:
        assert self.result.peak_bytes is not None
        return self.result.peak_bytes

    @property
    def tensor_bytes(self) -> int:
        worst = max(self.result.memory, key=lambda peaks: peaks.device_bytes)
        return worst.device_bytes - outside_bytes(worst, int(self.forecast.parts["fixed"][0]))

    @property
    def tokens_per_second(self) -> float:
        assert self.result.tokens_per_second is not None
        return self.result.tokens_per_second.median

    def to_dict(self) -> dict[str, Any]:
        predicted = self.forecast
        return {
            "seed": self.seed,
            "option": self.option,
            "model": self.case.name,
            "world_size": self.case.world_size,
            "tflops": dict(self.case.tflops),
            "config": self.config.model_dump(mode="json"),
            "measured": {"tensor_bytes": self.tensor_bytes, "device_bytes": self.device_bytes},
            "forecast": {
                "tensor_bytes": int(predicted.reserved_bytes[0]),
                "device_bytes": int(predicted.device_bytes[0]),
                "tokens_per_second": round(float(predicted.tokens_per_second[0]), 1),
            },
            "traced_bytes": self.traced_bytes,
            "estimates": self.estimates,
            "result": self.result.model_dump(mode="json", include=RECORDED),
        }


def probed(rows_per_case: int, seed: int) -> Iterator[Row]:
    rng = random.Random(seed)
    for world_size in WORLDS:
        yield from probed_on(world_size, [(PLAIN, name) for name in MODELS], rows_per_case, seed, rng)


def probed_options(rows_per_option: int, known: Collection[tuple[str, int]], seed: int) -> Iterator[Row]:
    """Of each option and world that is not `known`."""
    rng = random.Random(seed)
    for world_size in sorted(SHARDINGS):
        here = [
            (name, option.model)
            for name, option in OPTIONS.items()
            if world_size in option.worlds and (name, world_size) not in known
        ]
        yield from probed_on(world_size, here, rows_per_option, seed, rng)


def probed_on(
    world_size: int, options: Sequence[tuple[str, str]], count: int, seed: int, rng: random.Random
) -> Iterator[Row]:
    """So many rows of each option and model."""
    here = tuple(parse_inventory("cpu:1").group.gpu.tflops.items())
    if not count or not options:
        return
    with LocalExecutor(Layout("cpu", 1, world_size, 1)) as executor:
        for option, name in options:
            case = Case(name, world_size, here)
            for number, config in enumerate(islice(case.legal_configs(rng, option), count)):
                request = case.request(config, number)
                result = executor.submit(request).result()
                if result.outcome != "measured":
                    print(f"left out: {option} {result.outcome}: {result.reason}")
                    continue
                yield Row(seed, option, case, config, result, traced(request), estimates(case, config))


def recorded() -> Iterator[Row]:
    stored = json.loads((RESULTS / "forecast_against_probes.json").read_text())
    for row in stored["rows"]:
        case = Case(row["model"], row["world_size"], tuple(row["tflops"].items()))
        config = TrainingConfig.parse(row["config"])
        result = ProbeResult.parse(row["result"])
        yield Row(
            row["seed"],
            row["option"],
            case,
            config,
            result,
            traced(case.request(config, 0)),
            estimates(case, config),
        )


def all_rows(seeds: Sequence[int], rows_per_case: int, rows_per_option: int, replay: bool) -> Iterator[Row]:
    known = list(recorded()) if replay else []
    for seed in seeds:
        found = [row for row in known if row.seed == seed and row.option == PLAIN]
        yield from found or probed(rows_per_case, seed)
    found = [row for row in known if row.option != PLAIN]
    yield from found
    yield from probed_options(rows_per_option, {(row.option, row.case.world_size) for row in found}, seeds[0])


def traced(request: ProbeRequest) -> int | None:
    try:
        return trace(request).peak_bytes
    except BadInput:
        return None


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
    parser.add_argument("--replay", action="store_true", help="compare with the probes that are recorded")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    rows: list[Row] = []
    try:
        for row in all_rows(arguments.seeds, arguments.rows, arguments.options, arguments.replay):
            rows.append(row)
            show(row)
    finally:  # what was probed is kept, however it ended
        save_figures(rows, arguments.seeds)


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


def save_figures(every_row: Sequence[Row], seeds: Sequence[int]) -> None:
    of_options = [row for row in every_row if row.option != PLAIN]
    rows = [row for row in every_row if row.option == PLAIN]
    enough = [r for r in rows if r.config.micro_batch_size * r.config.sequence_length >= ENOUGH_TOKENS]
    groups = {"all": rows, f"from {ENOUGH_TOKENS} tokens": enough}
    for seed in seeds:
        groups[f"seed {seed}, from {ENOUGH_TOKENS} tokens"] = [row for row in enough if row.seed == seed]
    found = {name: compare(of_group, seeds[0]) for name, of_group in groups.items() if of_group}
    for name in OPTIONS:
        of_option = [row for row in of_options if row.option == name]
        found[name] = {key: of for key, of in memory(of_option).items() if of["rows"]}
    for group, figures_of in found.items():
        print(group)
        for name, of in figures_of.items():
            print(f"  {name:34}", "  ".join(f"{key} {value:.3g}" for key, value in of.items()))
    result = {
        "seeds": list(seeds),
        "figures": found,
        "rows": [row.to_dict() for row in [*rows, *of_options]],
    }
    print(f"written to {save('forecast_against_probes', result)}")


if __name__ == "__main__":
    main()
