"""Memory and speed as forecast, as traced and as calibrated, against real probes on this machine's CPU.

Random configurations of several models on one and two ranks, over every engine, are probed; beside the
forecast stand DeepSpeed's and accelerate's estimators. Memory is that of a rank's tensors: the resident peak
less what the forecast has outside of them. For the calibrated figures three probes of a model are drawn (40
times) and the others forecast with what they taught; the traces are scaled by the same three. A false fit is
a row that the forecast lets fit, with the default headroom, under a ceiling that is too small.

Figures are given of all rows, and of those with enough tokens in a microbatch for their activations to be
larger than the blocks that malloc keeps.

`python benchmarks/forecast_against_probes.py [--rows 20] [--seeds 0 1] [--replay]` prints a table and writes
results/forecast_against_probes.json; with --replay the probes recorded there are used again, and seeds that
are not there are probed. The constants of CPUs were chosen by those of seed 0; others are unseen.
"""

import argparse
import json
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from statistics import mean
from typing import Any

import numpy as np
from machine import RESULTS, save

from autotune.execution.executor import Layout
from autotune.execution.local import LocalExecutor
from autotune.forecast.calibration import Calibration, Observation, outside_bytes
from autotune.forecast.forecast import Forecast, forecast
from autotune.hardware.inventory import NodeGroup
from autotune.hardware.parse import parse_inventory
from autotune.models.closed_form import shape_of
from autotune.models.hf import clean
from autotune.models.shape import ModelShape
from autotune.search.facts import facts_of
from search_spaces.columns import Columns
from search_spaces.constraints import why_illegal
from trials.contract.capabilities import ENGINE_OF_SHARDING
from trials.contract.config import TrainingConfig
from trials.contract.messages import MeasurementPlan, ModelSpec, ProbeRequest, ProbeResult
from trials.trace import trace

DRAWS = 40
PROBES = 3
HEADROOM = 0.05
ENOUGH_TOKENS = 1024
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
MODELS: dict[str, dict[str, Any]] = {
    "llama-34m": {
        "model_type": "llama", "vocab_size": 16000, "hidden_size": 512, "intermediate_size": 1408,
        "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 2,
        "max_position_embeddings": 2048, "tie_word_embeddings": False, "pad_token_id": 0,
    },
    "gpt2-52m": {
        "model_type": "gpt2", "vocab_size": 50257, "n_embd": 512, "n_layer": 8, "n_head": 8,
        "n_positions": 2048, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    },
    "qwen3-70m": {
        "model_type": "qwen3", "vocab_size": 32000, "hidden_size": 640, "intermediate_size": 1920,
        "num_hidden_layers": 10, "num_attention_heads": 10, "num_key_value_heads": 2, "head_dim": 64,
        "max_position_embeddings": 4096, "tie_word_embeddings": True, "pad_token_id": 0,
    },
}  # fmt: skip
WORLDS = (1, 2)
SHARDINGS = {1: ("ddp",), 2: ("ddp", "fsdp", "zero1", "zero2", "zero3")}
MEASUREMENT = MeasurementPlan(max_warm_up_steps=2, least_steps=1, min_steps=3, max_steps=3, max_measure_s=6)


@dataclass(frozen=True)
class Case:
    """One model on one world of a machine."""

    name: str
    world_size: int
    tflops: tuple[tuple[str, float], ...]
    """Rates of the machine's cores, by precision."""

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(name=self.name, hf_config=clean(MODELS[self.name], self.name).config)

    @property
    def shape(self) -> ModelShape:
        assert self.spec.hf_config is not None
        shape = shape_of(self.spec.hf_config)
        assert shape is not None
        return shape

    @property
    def group(self) -> NodeGroup:
        here = parse_inventory(f"cpu:{self.world_size}").group
        return replace(here, gpu=replace(here.gpu, tflops=dict(self.tflops)))

    def forecast(self, configs: Sequence[TrainingConfig]) -> Forecast:
        return forecast(self.shape, self.group, self.world_size, Columns.of(configs))

    def request(self, config: TrainingConfig, number: int) -> ProbeRequest:
        return ProbeRequest(
            probe_id=f"{self.name}-{self.world_size}-{number}",
            model=self.spec,
            config=config,
            world_size=self.world_size,
            measurement=MEASUREMENT,
        )

    def legal_configs(self, rng: random.Random) -> Iterator[TrainingConfig]:
        facts = facts_of(self.shape, self.group, self.world_size)
        seen = set()
        while True:
            config = TrainingConfig(
                micro_batch_size=rng.choice([1, 2, 3, 4, 6, 8]),
                sequence_length=rng.choice([128, 256, 512]),
                precision=rng.choice(["fp32", "bf16", "bf16_pure"]),
                optimizer=rng.choice(["adamw", "adamw", "sgd"]),
                activation_checkpointing=rng.choice(["none", "selective", "full"]),
                gradient_accumulation_steps=rng.choice([1, 1, 2]),
                attention=rng.choice(["sdpa", "sdpa", "eager"]),
                sharding=rng.choice(SHARDINGS[self.world_size]),
            )
            if config not in seen and why_illegal(config, facts) is None:
                seen.add(config)
                yield config


@dataclass(frozen=True)
class Row:
    """One configuration, probed."""

    seed: int
    """Of the random configurations."""
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
    here = tuple(parse_inventory("cpu:1").group.gpu.tflops.items())
    for world_size in WORLDS:
        with LocalExecutor(Layout("cpu", 1, world_size, 1)) as executor:
            for case in (Case(name, world_size, here) for name in MODELS):
                for number, config in enumerate(islice(case.legal_configs(rng), rows_per_case)):
                    request = case.request(config, number)
                    result = executor.submit(request).result()
                    if result.outcome != "measured":
                        print(f"left out: {result.outcome}: {result.reason}")
                        continue
                    yield Row(seed, case, config, result, traced(request), estimates(case, config))


def recorded(seed: int) -> Iterator[Row]:
    stored = json.loads((RESULTS / "forecast_against_probes.json").read_text())
    for row in stored["rows"]:
        if row["seed"] != seed:
            continue
        case = Case(row["model"], row["world_size"], tuple(row["tflops"].items()))
        config = TrainingConfig.parse(row["config"])
        result = ProbeResult.parse(row["result"])
        yield Row(seed, case, config, result, traced(case.request(config, 0)), estimates(case, config))


def rows_of(seeds: Sequence[int], rows_per_case: int, replay: bool) -> Iterator[Row]:
    for seed in seeds:
        found = list(recorded(seed)) if replay else []
        yield from found or probed(rows_per_case, seed)


def traced(request: ProbeRequest) -> int | None:
    config, world_size = request.config, request.world_size
    if ENGINE_OF_SHARDING[config.sharding] == "zero" or (config.sharding == "ddp" and world_size > 1):
        return None
    return trace(request).peak_bytes


def estimates(case: Case, config: TrainingConfig) -> dict[str, int]:
    """What DeepSpeed says of its stages 2 and 3, and accelerate of any training."""
    parameters, largest_layer, total_bytes = _sizes_for_estimators(case)
    return dict(_estimates(case, config, parameters, largest_layer, total_bytes))


def _estimates(
    case: Case, config: TrainingConfig, parameters: int, largest_layer: int, total_bytes: int
) -> Iterator[tuple[str, int]]:
    from accelerate.commands.estimate import estimate_training_usage
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    where = {"num_gpus_per_node": case.world_size, "num_nodes": 1, "cpu_offload": False}
    if config.sharding == "zero2":
        yield "deepspeed", estimate_zero2_model_states_mem_needs(parameters, **where)[1]
    if config.sharding == "zero3":
        yield (
            "deepspeed",
            estimate_zero3_model_states_mem_needs(
                parameters, largest_layer, cpu_offload_params=False, **where
            )[1],
        )
    precision = "float32" if config.precision == "fp32" else "bfloat16"
    yield "accelerate", max(estimate_training_usage(total_bytes, precision).values())


@cache
def _sizes_for_estimators(case: Case) -> tuple[int, int, int]:
    """Parameters, those of the largest layer as DeepSpeed counts them, and bytes as accelerate does."""
    from accelerate.utils import calculate_maximum_sizes
    from deepspeed.runtime.zero.stage3 import model_to_params
    from torch import device
    from transformers import AutoConfig, AutoModelForCausalLM

    config = dict(case.spec.hf_config or {})
    with device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    _, largest_layer = model_to_params(model)
    total_bytes, _ = calculate_maximum_sizes(model)
    return case.shape.num_parameters, largest_layer, total_bytes


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


def compare(rows: Sequence[Row], seed: int) -> dict[str, dict[str, Any]]:
    def errors(of: Callable[[Row], int | float | None]) -> list[float]:
        return [value / row.tensor_bytes - 1 for row in rows if (value := of(row)) is not None]

    drawn = list(after_probes(rows, seed))
    false_fits = [
        cautious for row, _, cautious, _, _ in drawn if cautious < row.device_bytes * (1 - HEADROOM)
    ]
    speed = [float(row.forecast.tokens_per_second[0]) / row.tokens_per_second - 1 for row in rows]
    return {
        "memory: forecast": figures(errors(lambda row: int(row.forecast.reserved_bytes[0]))),
        "memory: trace": figures(errors(lambda row: row.traced_bytes)),
        "memory: deepspeed": figures(errors(lambda row: row.estimates.get("deepspeed"))),
        "memory: accelerate": figures(errors(lambda row: row.estimates["accelerate"])),
        "memory: forecast after 3 probes": figures(t / row.tensor_bytes - 1 for row, t, *_ in drawn),
        "memory: trace after 3 probes": figures(t / row.tensor_bytes - 1 for row, *_, t in drawn if t),
        "device: forecast": figures(row.forecast.device_bytes[0] / row.device_bytes - 1 for row in rows),
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
    parser.add_argument("--replay", action="store_true", help="compare with the probes that are recorded")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    rows = []
    for row in rows_of(arguments.seeds, arguments.rows, arguments.replay):
        rows.append(row)
        predicted, config = row.forecast, row.config
        print(
            f"{row.case.name:10} × {row.case.world_size}  {config.sharding:5} {config.precision:9} "
            f"{config.activation_checkpointing:9} {config.attention:5} {config.optimizer:5} "
            f"{config.micro_batch_size} × {config.sequence_length} × {config.gradient_accumulation_steps}  "
            f"{row.tensor_bytes / 2**20:6.0f} MiB "
            f"forecast {predicted.reserved_bytes[0] / row.tensor_bytes - 1:+7.1%} "
            f"trace {_traced_error(row)} "
            f"speed {predicted.tokens_per_second[0] / row.tokens_per_second - 1:+7.1%}",
            flush=True,
        )
    enough = [r for r in rows if r.config.micro_batch_size * r.config.sequence_length >= ENOUGH_TOKENS]
    groups = {"all": rows, f"from {ENOUGH_TOKENS} tokens": enough}
    for seed in arguments.seeds:
        groups[f"seed {seed}, from {ENOUGH_TOKENS} tokens"] = [row for row in enough if row.seed == seed]
    found = {name: compare(of_group, arguments.seeds[0]) for name, of_group in groups.items()}
    for group, figures_of in found.items():
        print(group)
        for name, of in figures_of.items():
            print(f"  {name:34}", "  ".join(f"{key} {value:.3g}" for key, value in of.items()))
    result = {"seeds": arguments.seeds, "figures": found, "rows": [row.to_dict() for row in rows]}
    print(f"written to {save('forecast_against_probes', result)}")


if __name__ == "__main__":
    main()
