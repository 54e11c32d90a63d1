"""The forecast, uncalibrated, beside end-to-end tables that others published: reserved memory and speed.

`python benchmarks/forecast_published.py` reads data/published.json and writes
results/forecast_published.json. Nothing is fitted to these rows, but for one constant: what attention reaches
where ranks share a sequence, to those with context parallelism, which are told apart.
"""

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from machine import save

from autotune.forecast.forecast import forecast
from autotune.hardware.inventory import NodeGroup
from autotune.hardware.parse import parse_inventory
from autotune.models.resolve import resolve
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig

PUBLISHED = json.loads((Path(__file__).parent / "data" / "published.json").read_text())


def group_of(gpus: int, hardware: dict[str, Any] = PUBLISHED["hardware"]) -> NodeGroup:
    """Nodes of eight such GPUs."""
    group = parse_inventory(f"{gpus // 8}x8x{hardware['base']}").group
    gpu = replace(
        group.gpu,
        memory_bytes=int(hardware["memory_gb"] * 1e9),
        bandwidth_gb_per_s=hardware["bandwidth_gb_per_s"],
    )
    return replace(group, gpu=gpu, network_gb_per_s=hardware["network_gb_per_s"])


def was_fitted(row: dict[str, Any]) -> bool:
    """Whether a constant of the forecast was chosen by rows like this."""
    return "context_parallel_size" in row["config"]


def compare(row: dict[str, Any]) -> dict[str, Any]:
    found = forecast(
        resolve(row["model"]).shape,
        group_of(row["gpus"]),
        row["gpus"],
        Columns.of([TrainingConfig.parse(row["config"])]),
    )
    speed = float(found.tokens_per_second[0]) / row["gpus"]
    reserved = int(found.reserved_bytes[0]) / 2**30
    published = row["reserved_gib"]
    return {
        **row,
        "forecast_tokens_per_second_per_gpu": round(speed, 1),
        "forecast_reserved_gib": round(reserved, 1),
        "speed_error": round(speed / row["tokens_per_second_per_gpu"] - 1, 4),
        "reserved_error": None if published is None else round(reserved / published - 1, 4),
    }


def main() -> None:
    rows = [compare(row) for row in PUBLISHED["rows"]]
    for row in rows:
        config = row["config"]
        split = "".join(
            f" {name}{config[f'{field}_parallel_size']}"
            for name, field in (("tp", "tensor"), ("pp", "pipeline"), ("cp", "context"))
            if f"{field}_parallel_size" in config
        )
        memory = "" if row["reserved_error"] is None else f"{row['reserved_error']:+7.1%}"
        print(
            f"{row['model']:15} × {row['gpus']:<4}{config['micro_batch_size']:3} × "
            f"{config['sequence_length']:<7}{config.get('precision', 'bf16'):5}"
            f"{'compiled' if config.get('compile') else 'eager':9}{split:13} "
            f"speed {row['forecast_tokens_per_second_per_gpu']:8,.0f} of "
            f"{row['tokens_per_second_per_gpu']:7,.0f} {row['speed_error']:+7.1%}   memory {memory}"
        )
    speeds = [row["speed_error"] for row in rows if not was_fitted(row)]
    fitted = [row["speed_error"] for row in rows if was_fitted(row)]
    memories = [row["reserved_error"] for row in rows if row["reserved_error"] is not None]
    figures = {
        "speed_mean_absolute_error": mean(map(abs, speeds)),
        "speed_worst": max(speeds, key=abs),
        "speed_mean_absolute_error_with_context_parallelism": mean(map(abs, fitted)),
        "speed_worst_with_context_parallelism": max(fitted, key=abs),
        "reserved_mean_absolute_error": mean(map(abs, memories)),
        "reserved_worst": max(memories, key=abs),
    }
    for name, value in figures.items():
        print(f"{name.replace('_', ' ')}: {value:+.1%}")
    print(f"written to {save('forecast_published', {'figures': figures, 'rows': rows})}")


if __name__ == "__main__":
    main()
