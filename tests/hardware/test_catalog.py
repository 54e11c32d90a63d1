"""The catalogue holds plausible facts, and every way of naming a GPU finds the one that is meant."""

import pytest

from autotune.errors import BadInput
from autotune.hardware import catalog
from autotune.hardware.catalog import entries, find, match

ALL = [entry.gpu for entry in entries()]


@pytest.mark.parametrize("gpu", ALL, ids=lambda gpu: gpu.name)
def test_facts_go_together(gpu):
    rates = gpu.tflops
    assert gpu.kind == "cuda"
    assert gpu.source
    assert 8 * 2**30 < gpu.memory_bytes < 300 * 2**30
    assert (set(rates) & {"bf16", "fp16", "fp8"}) | {"cuda"} == gpu.features
    assert (
        rates["fp32"] <= rates.get("tf32", rates["fp32"]) <= rates["fp16"] <= rates.get("fp8", rates["fp16"])
    )
    assert gpu.pcie_gb_per_s <= gpu.link_gb_per_s < gpu.bandwidth_gb_per_s


def test_names_and_aliases_are_of_one_gpu_each():
    spelled = [
        catalog._plain(name)
        for row in catalog._rows()
        for name in {catalog._plain(name) for name in (row["name"], *row["aliases"], *row["device_names"])}
    ]
    assert len(spelled) == len(set(spelled))
    assert all(spelled)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("h100", "H100-80GB"),
        ("H100-80GB", "H100-80GB"),
        ("h100_sxm", "H100-80GB"),
        ("a100", "A100-40GB"),  # of the two the smaller: a plan for it fits both
        ("a100-80gb", "A100-80GB"),
        ("4090", "RTX4090"),
        ("rtx 4090", "RTX4090"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("t4", "T4"),
        ("l40s", "L40S"),
        ("mi300x", "MI300X"),
    ],
)
def test_as_people_write_it(name, found):
    assert find(name).gpu.name == found


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("Tesla T4", "T4"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB-PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H200", "H200"),
        ("GeForce-RTX-5090", "RTX5090"),  # as Ray names it
        ("AMD-Instinct-MI300X-OAM", "MI300X"),
    ],
)
def test_as_drivers_and_clusters_print_it(printed, found):
    assert match(printed).gpu.name == found


def test_a_card_of_another_kind_is_not_taken_for_a_known_one():
    assert match("NVIDIA L40") is None
    assert match("NVIDIA GeForce RTX 4090 Laptop GPU") is None
    assert match("") is None


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'H100'"):
        find("H101")
    with pytest.raises(BadInput, match=r"did you mean 'H100'\?$"):
        find("H1000")
    with pytest.raises(BadInput, match="`autotune gpus` lists those"):
        find("abacus")


def test_a_found_gpu_is_nobody_elses():
    find("H100").gpu.tflops["bf16"] = 0.0
    assert find("H100").gpu.tflops["bf16"] == 989.0
