"""Measure tables for searches to be replayed on: every configuration of a space, twice.

`python benchmarks/measure_tables.py [NAME...]` runs `autotune tune --sampler exhaustive --repeats 2` for each
job below and writes results/tables/NAME.json (docs/tables.md). A table takes half an hour on two cores; a run
that was stopped goes on where it was.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from machine import RESULTS

HERE = Path(__file__).parent
AUTOTUNE = str(Path(sys.executable).with_name("autotune"))
DATABASE = "sqlite:///tables.db"
SMALL: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "llama": {
            "model_type": "llama", "vocab_size": 8000, "hidden_size": 256, "intermediate_size": 704,
            "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 1024, "tie_word_embeddings": False, "pad_token_id": 0,
        },
        "gpt2": {
            "model_type": "gpt2", "vocab_size": 16000, "n_embd": 384, "n_layer": 4, "n_head": 6,
            "n_positions": 512, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
        },
        "qwen3": {
            "model_type": "qwen3", "vocab_size": 32000, "hidden_size": 256, "intermediate_size": 768,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
            "max_position_embeddings": 1024, "tie_word_embeddings": True, "pad_token_id": 0,
        },
    }
)  # fmt: skip
JOBS: Mapping[str, tuple[str, str, str, tuple[str, ...]]] = MappingProxyType(
    {
        "llama-one-rank": ("llama", "cpu:1", "620MiB", ()),
        "gpt2-two-ranks": (
            "gpt2",
            "cpu:2",
            "700MiB",
            ("--baseline", "sharding=zero3,activation_checkpointing=full,micro_batch_size=2,precision=bf16"),
        ),
        "qwen3-global-batch": ("qwen3", "cpu:2", "760MiB", ("--global-batch-size", "12")),
    }
)
"""Table → model, GPUs, ceiling, and what else is asked for."""


def measure(name: str) -> None:
    model, gpus, ceiling, more = JOBS[name]
    config = HERE / f"{name}.config.json"
    config.write_text(json.dumps(SMALL[model]))
    storage = ["--storage", DATABASE]
    jobs = json.loads(
        subprocess.run([AUTOTUNE, "jobs", *storage, "--json"], check=True, capture_output=True).stdout
    )["jobs"]
    if any(job["job"] == name for job in jobs):
        command = [AUTOTUNE, "resume", name, *storage]
    else:
        command = [
            AUTOTUNE, "tune", str(config), "--name", name, "--gpus", gpus, "--ceiling", ceiling,
            "--space", str(HERE / "tables" / f"{name}.yaml"), "--sampler", "exhaustive", "--trials", "1000",
            "--repeats", "2", "--probe-seconds", "3", "--executor", "local", *more, *storage,
        ]  # fmt: skip
    subprocess.run(command, check=True)
    config.unlink()
    (RESULTS / "tables").mkdir(exist_ok=True)
    table = RESULTS / "tables" / f"{name}.json"
    subprocess.run(
        [AUTOTUNE, "trials", name, *storage, "--json", "--table", str(table)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=list(JOBS), metavar="NAME")
    for name in parser.parse_args().names:
        measure(name)


if __name__ == "__main__":
    main()
