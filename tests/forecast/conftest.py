"""Models and machines that tests of the forecast share."""

import pytest

from autotune.hardware.inventory import Gpu, NodeGroup
from autotune.models.shape import ModelShape


@pytest.fixture(scope="session")
def h100() -> Gpu:
    return Gpu(
        name="H100",
        kind="cuda",
        memory_bytes=80 * 10**9,
        tflops={"fp32": 67, "bf16": 989, "fp16": 989, "fp8": 1979},
        bandwidth_gb_per_s=3350,
        link_gb_per_s=450,
        pcie_gb_per_s=64,
        features=frozenset({"cuda", "bf16", "fp16", "fp8"}),
        source="test",
    )


@pytest.fixture(scope="session")
def node(h100: Gpu) -> NodeGroup:
    return NodeGroup(h100, num_nodes=1, gpus_per_node=8, network_gb_per_s=50)


@pytest.fixture(scope="session")
def cpus() -> NodeGroup:
    core = Gpu(
        name="core",
        kind="cpu",
        memory_bytes=4 * 2**30,
        tflops={"fp32": 0.1, "bf16": 0.2},
        bandwidth_gb_per_s=20,
        link_gb_per_s=5,
        pcie_gb_per_s=5,
        features=frozenset({"cpu", "bf16", "fp16"}),
        source="test",
    )
    return NodeGroup(core, num_nodes=1, gpus_per_node=8, network_gb_per_s=1)


@pytest.fixture(scope="session")
def llama_8b() -> ModelShape:
    return ModelShape(
        model_type="llama",
        num_parameters=8_030_261_248,
        num_layers=32,
        hidden_size=4096,
        intermediate_size=14336,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        vocab_size=128256,
        tied_embeddings=False,
        gated_mlp=True,
        other_parameters=4096,
    )
