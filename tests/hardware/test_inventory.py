"""Inventories: as the user writes them, as a file, and stored."""

import json
import re
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import BadInput
from autotune.hardware.cpu import cpu_memory_bytes
from autotune.hardware.inventory import Inventory
from autotune.hardware.inventory_file import READERS
from autotune.hardware.parse import parse_inventory, sent_inventory


@pytest.mark.parametrize(
    ("text", "name", "num_nodes", "gpus_per_node"),
    [
        ("H100:8", "H100-80GB", 1, 8),
        ("2x8xH100-80GB", "H100-80GB", 2, 8),
        ("2X8Xh100", "H100-80GB", 2, 8),
        ("8x4090", "RTX4090", 1, 8),
        ("2x8x4090", "RTX4090", 2, 8),
        (" mi300x:8 ", "MI300X", 1, 8),
        ("rtx 5090", "RTX5090", 1, 1),
        ("cpu:2", "CPU", 1, 2),
        ("2x1xCPU", "CPU", 2, 1),
        ("64x8xB200", "B200", 64, 8),
    ],
)
def test_as_the_user_writes_it(text, name, num_nodes, gpus_per_node):
    group = parse_inventory(text).group
    assert (group.gpu.name, group.num_nodes, group.gpus_per_node) == (name, num_nodes, gpus_per_node)
    assert group.world_size == num_nodes * gpus_per_node


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no GPUs"),
        ("H100:8:8", "names no GPUs"),
        ("H100:-8", "names no GPUs"),
        ("H100:0", "1 to 1,024 GPUs per node, not 0"),
        ("0x8xH100", "1 to 65,536 nodes, not 0"),
        ("99999999999999999999x8xH100", "1 to 65,536 nodes"),
        ("2x9999xH100", "1 to 1,024 GPUs per node"),
        ("H101:8", "did you mean 'H100'"),
        ("cup:2", "no GPU called 'cup'"),
        ("missing.yaml", "cannot read missing.yaml"),
        ("nul\0.yaml", "cannot be read"),
    ],
)
def test_what_names_no_inventory(text, reason):
    with pytest.raises(BadInput, match=reason):
        parse_inventory(text)


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("around", ["{}", " {}", "{} ", "{}\n"])
def test_no_text_that_is_sent_names_a_file(tmp_path, monkeypatch, suffix, around):
    """Nor is one taken that would name a file where a job's words are read again."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "H100", "8xH100", "cpu"):
        Path(name + suffix).write_text(JSON)
        with pytest.raises(BadInput, match="no GPU called"):
            sent_inventory(around.format(name + suffix))


@given(st.text(max_size=30))
def test_any_text_is_an_inventory_or_refused(text):
    if text.strip().lower() == "auto":
        return
    try:
        inventory = parse_inventory(text)
    except BadInput:
        return
    assert inventory.group.world_size >= 1


def test_ranks_on_the_cpu_share_its_memory():
    one, four = parse_inventory("cpu:1").group, parse_inventory("cpu:4").group
    assert one.gpu.memory_bytes == one.host_memory_bytes == cpu_memory_bytes()
    assert four.gpu.memory_bytes == cpu_memory_bytes() // 4
    assert one.gpu.kind == "cpu"
    assert one.gpu.features == {"cpu", "bf16", "fp16"}


@pytest.mark.parametrize("text", ["2x8xH100", "cpu:2", "T4"])
def test_a_stored_inventory_comes_back_equal(text):
    inventory = parse_inventory(text)
    stored = json.dumps(inventory.to_dict())
    assert Inventory.from_dict(json.loads(stored)) == inventory
    assert json.dumps(inventory.to_dict()) == stored


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"groups": []}, "groups"),
        ({"nodes": 2}, "nodes"),
        ({"groups": [{"num_nodes": 1}]}, "groups.0.gpu"),
        ({"groups": parse_inventory("T4").to_dict()["groups"] * 65}, "groups"),
        (
            {"groups": [parse_inventory("T4").to_dict()["groups"][0] | {"num_nodes": 10**6}]},
            "groups.0.num_nodes",
        ),
    ],
)
def test_what_was_not_stored_by_it_is_refused(change, reason):
    with pytest.raises(BadInput, match=f"not an inventory: {reason}"):
        Inventory.from_dict(parse_inventory("T4").to_dict() | change)


YAML = """
    nodes:
      - count: 2
        gpus_per_node: 8
        gpu: h100
        network_gb_per_s: 25
        host_memory: 2TB
      - gpus_per_node: 4
        gpu:
          {name: Mine, memory: 48GiB, tflops: {fp32: 40, bf16: 160}, bandwidth_gb_per_s: 960,
           link_gb_per_s: 28}
"""
JSON = """
    {"nodes": [
      {"count": 2, "gpus_per_node": 8, "gpu": "h100", "network_gb_per_s": 25, "host_memory": "2TB"},
      {"gpus_per_node": 4, "gpu": {"name": "Mine", "memory": 51539607552, "tflops": {"fp32": 40, "bf16": 160},
       "bandwidth_gb_per_s": 960, "link_gb_per_s": 28}}
    ]}
"""
TOML = """
    [[nodes]]
    count = 2
    gpus_per_node = 8
    gpu = "h100"
    network_gb_per_s = 25
    host_memory = "2TB"

    [[nodes]]
    gpus_per_node = 4
    [nodes.gpu]
    name = "Mine"
    memory = "48GiB"
    tflops = {fp32 = 40, bf16 = 160}
    bandwidth_gb_per_s = 960
    link_gb_per_s = 28
"""


@pytest.mark.parametrize(("suffix", "text"), [("yaml", YAML), ("json", JSON), ("toml", TOML)])
def test_a_file_in_each_format(tmp_path, suffix, text):
    file = tmp_path / f"cluster.{suffix}"
    file.write_text(textwrap.dedent(text))
    known, own = parse_inventory(str(file)).groups
    assert (known.gpu.name, known.world_size, known.network_gb_per_s) == ("H100-80GB", 16, 25)
    assert known.host_memory_bytes == 2 * 10**12
    assert (own.num_nodes, own.gpu.name, own.gpu.memory_bytes) == (1, "Mine", 48 * 2**30)
    assert own.gpu.features == {"cuda", "bf16"}
    assert own.gpu.tflops == {"fp32": 40, "bf16": 160}
    assert f"cluster.{suffix}" in own.gpu.source


def test_an_object_is_what_a_file_of_it_would_be(tmp_path):
    file = tmp_path / "cluster.json"
    file.write_text(JSON)
    read, given = parse_inventory(str(file)), parse_inventory(json.loads(JSON))
    assert given.groups[0] == read.groups[0]
    assert str(given) == "2 × 8 × H100-80GB + 4 × Mine"
    assert given.groups[1].gpu.source == "given"


def test_an_object_may_be_a_stored_inventory():
    inventory = parse_inventory("2x8xH100")
    assert parse_inventory(inventory.to_dict()) == inventory


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "the inventory: nodes: field required"),
        ({"node": []}, "the inventory: unknown field 'node'; did you mean 'nodes'"),
        ({"nodes": [{"gpu": "H101", "gpus_per_node": 8}]}, "did you mean 'H100'"),
        ({"groups": [], "nodes": []}, "not an inventory: "),
    ],
)
def test_an_object_that_is_wrong_is_refused_in_a_sentence(content, reason):
    with pytest.raises(BadInput) as caught:
        parse_inventory(content)
    assert reason in str(caught.value)


def test_a_file_with_cpu_nodes(tmp_path):
    file = tmp_path / "laptops.yaml"
    file.write_text("nodes: [{count: 3, gpus_per_node: 2, gpu: CPU}]")
    group = parse_inventory(str(file)).group
    assert (group.gpu.kind, group.world_size) == ("cpu", 6)
    assert group.host_memory_bytes == cpu_memory_bytes()


GPU = "{name: Mine, memory: 48GiB, tflops: {fp32: 40}, bandwidth_gb_per_s: 960, link_gb_per_s: 28"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a mapping from names to values"),
        ("[]", "a mapping from names to values"),
        ("nodes: []", "nodes"),
        ("node: []", "unknown field 'node'; did you mean 'nodes'"),
        (
            "nodes: [{gpu: H100, gpus_per_nod: 8}]",
            "unknown field 'gpus_per_nod'; did you mean 'gpus_per_node'",
        ),
        ("nodes: [{gpu: H100}]", "gpus_per_node"),
        ("nodes: [{gpu: H100, gpus_per_node: 0}]", "gpus_per_node"),
        ("nodes: [{gpu: H100, gpus_per_node: true}]", "gpus_per_node"),
        ("nodes: [{gpu: H100, gpus_per_node: 8, count: 100000000}]", "count"),
        ("nodes: [{gpu: H100, gpus_per_node: 8, network_gb_per_s: .nan}]", "network_gb_per_s"),
        ("nodes: [{gpu: H100, gpus_per_node: 8, network_gb_per_s: -1}]", "network_gb_per_s"),
        ("nodes: [{gpu: H101, gpus_per_node: 8}]", "did you mean 'H100'"),
        (
            f"nodes: [{{gpus_per_node: 8, gpu: {GPU}, bandwith: 3}}}}]",
            "unknown field 'bandwith'; did you mean 'bandw",
        ),
        (f"nodes: [{{gpus_per_node: 8, gpu: {GPU}, pcie_gb_per_s: 0}}}}]", "pcie_gb_per_s"),
        ("nodes: [{gpus_per_node: 8, gpu: {name: Mine}}]", "memory"),
        ("nodes: [{gpus_per_node: 8, gpu: H100, host_memory: lots}]", "'lots' is not a size"),
        ("nodes: []\nnodes: []", "stands there twice"),
        ("a: &a [x]\nnodes: [*a, *a]", "aliases"),
        ("nodes: [", "cannot be read"),
        ("nodes: !!python/object/apply:os.system [true]", "cannot be read"),
        ("[" * 5000, "nested too deeply"),
        (" " * (1 << 20 | 1), "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_a_sentence(tmp_path, text, reason):
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(BadInput) as caught:
        parse_inventory(str(file))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            '{"nodes": [], "nodes": [{"gpu": "H100", "gpus_per_node": 8}]}',
            "the key 'nodes' stands in it twice",
        ),
        ('{"nodes": NaN}', "NaN is not a number"),
        ('{"nodes": 1e999}', "out of range"),
        ('{"nodes": ' + "9" * 40 + "}", "does not fit 64 bits"),
        ("{", "not JSON"),
    ],
)
def test_a_json_file_is_read_strictly(tmp_path, text, reason):
    file = tmp_path / "cluster.json"
    file.write_text(text)
    with pytest.raises(BadInput, match=re.escape(reason)):
        parse_inventory(str(file))
