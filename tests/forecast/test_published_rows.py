"""The forecast beside measurements that others published.

torchtitan, benchmarks/llama3_h100_202412_torchtitan.md: Llama 3.1 8B, FSDP2 on H100 with 96 GB of HBM2e at
2.4 TB/s and a 500 W limit; memory is the allocator's peak. Tables 1 and 3: local batch 2 of 8192 tokens;
table 2: float8, full checkpointing, context parallel.
"""

from dataclasses import replace

import pytest

from autotune.forecast.forecast import forecast
from autotune.hardware.inventory import NodeGroup
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig

SELECTIVE = {"micro_batch_size": 2, "sequence_length": 8192, "activation_checkpointing": "selective"}
LONG = {"precision": "fp8", "activation_checkpointing": "full", "compile": True}
ROWS = [
    # ranks, configuration, GiB, tokens per second and GPU
    (8, SELECTIVE, 82.4, 5762),
    (8, SELECTIVE | {"compile": True}, 77.0, 6667),
    (128, SELECTIVE, 67.0, 5605),
    (128, SELECTIVE | {"compile": True}, 62.0, 6514),
    (8, LONG | {"sequence_length": 32768}, 83.9, 3890),
    (8, LONG | {"sequence_length": 65536, "context_parallel_size": 2}, 84.2, 2540),
    (8, LONG | {"sequence_length": 131072, "context_parallel_size": 4}, 84.0, 1071),
    (8, LONG | {"sequence_length": 262144, "context_parallel_size": 8}, 84.5, 548),
]


@pytest.mark.parametrize(("ranks", "fields", "gib", "speed"), ROWS)
def test_torchtitan_8b(h100, llama_8b, ranks, fields, gib, speed):
    gpu = replace(h100, bandwidth_gb_per_s=2400)
    group = NodeGroup(gpu, num_nodes=ranks // 8, gpus_per_node=8, network_gb_per_s=50)
    config = TrainingConfig(sharding="fsdp", **fields)
    found = forecast(llama_8b, group, ranks, Columns.of([config]))
    assert found.reserved_bytes[0] / 2**30 == pytest.approx(gib, rel=0.05)
    # The data sheet's peak is that of 700 W, so too fast: by a third, and by more where attention rules.
    assert 1.0 < found.tokens_per_second[0] / ranks / speed < 2.0
