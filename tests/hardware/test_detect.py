"""Detection: NVML with CUDA_VISIBLE_DEVICES and MIG, a running Ray cluster, and last the CPU."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.errors import BadInput, ExecutionUnavailable
from autotune.hardware.catalog import find
from autotune.hardware.cpu import cpu_memory_bytes
from autotune.hardware.detect import (
    cpu_group_of_nodes,
    detect,
    inventory_of_gpus,
    inventory_of_nodes,
    local_gpus,
    ray_devices,
)
from autotune.hardware.parse import parse_inventory

GIB, MIB = 2**30, 2**20


class RecordedError(Exception):
    """Stands for pynvml.NVMLError."""


@dataclass
class RecordedGpu:
    """What NVML answers about one GPU, or one MIG instance of it."""

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    total: int = 81559 * MIB
    reserved: int = 551 * MIB
    capability: tuple[int, int] = (9, 0)
    mig_slots: list["RecordedGpu | None"] | None = None
    """Instances by their place; None where the GPU knows no MIG, empty where it is on without instances."""
    slices: int = 7
    cores: int = 0
    sm_mhz: int = 0
    memory_mhz: int = 0
    bus_bits: int = 0
    lost: bool = False


@dataclass
class RecordedNvml:
    """A machine as recorded from NVML: its semantics, refusals included, without a driver."""

    gpus: list[RecordedGpu]
    driver: bool = True
    knows_memory_v2: bool = True
    sessions: int = 0
    NVMLError: type[Exception] = field(default=RecordedError)
    NVML_CLOCK_SM: int = 1
    NVML_CLOCK_MEM: int = 2
    NVML_DEVICE_MIG_ENABLE: int = 1
    nvmlMemory_v2: int = 0x02000028  # noqa: N815  # as pynvml names it

    def nvmlInit(self) -> None:
        if not self.driver:
            raise RecordedError("NVML Shared Library Not Found")
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> RecordedGpu:
        if self.gpus[index].lost:
            raise RecordedError("GPU is lost")
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, handle: RecordedGpu) -> str:
        return handle.uuid

    def nvmlDeviceGetName(self, handle: RecordedGpu) -> str:
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: RecordedGpu, version: int | None = None) -> Any:
        if version is None:
            return SimpleNamespace(total=handle.total)
        if not self.knows_memory_v2:
            raise RecordedError("Function Not Found")
        return SimpleNamespace(total=handle.total, reserved=handle.reserved)

    def nvmlDeviceGetCudaComputeCapability(self, handle: RecordedGpu) -> tuple[int, int]:
        return handle.capability

    def nvmlDeviceGetMigMode(self, handle: RecordedGpu) -> list[int]:
        if handle.mig_slots is None:
            raise RecordedError("Not Supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: RecordedGpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: RecordedGpu, index: int) -> RecordedGpu:
        instance = device.mig_slots[index] if index < len(device.mig_slots) else None
        if instance is None:
            raise RecordedError("Not Found")
        return instance

    def nvmlDeviceGetAttributes(self, device: RecordedGpu) -> Any:
        return SimpleNamespace(gpuInstanceSliceCount=device.slices)

    def nvmlDeviceGetNumGpuCores(self, device: RecordedGpu) -> int:
        return device.cores

    def nvmlDeviceGetMaxClockInfo(self, handle: RecordedGpu, type: int) -> int:
        return handle.sm_mhz if type == self.NVML_CLOCK_SM else handle.memory_mhz

    def nvmlDeviceGetMemoryBusWidth(self, device: RecordedGpu) -> int:
        return device.bus_bits


def seen(gpus: list[RecordedGpu], visible: str | None = None) -> list[str]:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    return [local.uuid for local in local_gpus(RecordedNvml(gpus), environment)]


def test_the_real_library_says_no_devices_where_there_is_no_driver(monkeypatch):
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        assert local_gpus() == ()
        assert detect().group.gpu.kind == "cpu"
    else:
        count = pynvml.nvmlDeviceGetCount()
        pynvml.nvmlShutdown()
        assert len(local_gpus(environment={})) >= min(1, count)


def test_the_protocol_is_what_pynvml_has():
    import pynvml

    for name in (name for name in dir(RecordedNvml) if name.startswith("nvmlDevice")):
        assert callable(getattr(pynvml, name))
    for name in ("NVML_CLOCK_SM", "NVML_CLOCK_MEM", "NVML_DEVICE_MIG_ENABLE", "nvmlMemory_v2"):
        assert getattr(pynvml, name) == getattr(RecordedNvml([]), name)


def test_no_driver_no_gpus():
    assert local_gpus(RecordedNvml([], driver=False), {}) == ()


def test_a_known_gpu_has_the_memory_it_really_has():
    nvml = RecordedNvml([RecordedGpu("GPU-1")])
    (local,) = local_gpus(nvml, {})
    assert nvml.sessions == 0, "the session is closed"
    assert local.gpu.name == "H100-80GB"
    assert local.gpu.memory_bytes == (81559 - 551) * MIB
    assert local.gpu.tflops == find("H100").gpu.tflops
    (old_driver,) = local_gpus(RecordedNvml([RecordedGpu("GPU-1")], knows_memory_v2=False), {})
    assert old_driver.gpu.memory_bytes == 81559 * MIB


FOUR = [RecordedGpu("GPU-aa1"), RecordedGpu("GPU-aa2"), RecordedGpu("GPU-b"), RecordedGpu("GPU-c")]


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("2", [2]),
        ("3,1", [3, 1]),
        (" 1 , 2 ", [1, 2]),
        ("1gpu,2", [1, 2]),
        ("0,-1,2", [0]),
        ("0,9,2", [0]),
        ("0,x,2", [0]),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,1", []),
        ("GPU-b", [2]),
        ("GPU-c,GPU-aa1", [3, 0]),
        ("GPU-aa", []),  # of two
        ("GPU-b,GPU-b", []),
        ("GPU-b,GPU-zz,GPU-c", [2]),
    ],
)
def test_cuda_visible_devices(visible, indices):
    assert seen(FOUR, visible) == [FOUR[index].uuid for index in indices]


def test_a_lost_gpu_keeps_its_index():
    gpus = [RecordedGpu("GPU-0", lost=True), RecordedGpu("GPU-1")]
    assert seen(gpus) == ["GPU-1"]
    assert seen(gpus, "1") == ["GPU-1"]
    assert seen(gpus, "0") == []


def mig(uuid: str, slices: int, memory: int) -> RecordedGpu:
    return RecordedGpu(uuid, slices=slices, total=memory, reserved=0)


SPLIT = [
    RecordedGpu("GPU-a", mig_slots=[mig("MIG-1", 3, 40448 * MIB), None, mig("MIG-2", 1, 9984 * MIB)]),
    RecordedGpu("GPU-b"),
]


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        (None, ["MIG-1", "MIG-2", "GPU-b"]),
        ("MIG-2", ["MIG-2"]),
        ("MIG-", []),  # of two
        ("0", ["MIG-1"]),
        ("GPU-a", ["MIG-1"]),
        ("1", ["GPU-b"]),
    ],
)
def test_a_gpu_in_mig_mode_counts_as_its_instances(visible, uuids):
    assert seen(SPLIT, visible) == uuids


def test_whole_gpus_go_by_number_and_instances_by_name():
    """DeepSpeed 0.19 reads nothing but numbers from CUDA_VISIBLE_DEVICES."""
    assert [gpu.visible_as for gpu in local_gpus(RecordedNvml(SPLIT), {})] == ["MIG-1", "MIG-2", "1"]
    chosen = {"CUDA_VISIBLE_DEVICES": "GPU-c,1"}
    assert [gpu.visible_as for gpu in local_gpus(RecordedNvml(FOUR), chosen)] == ["3", "1"]


def test_mig_without_instances_computes_nothing():
    assert seen([RecordedGpu("GPU-a", mig_slots=[])]) == []


def test_a_mig_instance_is_its_share_of_the_gpu():
    instance = local_gpus(RecordedNvml(SPLIT), {"CUDA_VISIBLE_DEVICES": "MIG-1"})[0].gpu
    whole = find("H100").gpu
    assert instance.memory_bytes == 40448 * MIB
    assert instance.tflops["bf16"] == pytest.approx(whole.tflops["bf16"] * 3 / 7)
    assert instance.bandwidth_gb_per_s == pytest.approx(whole.bandwidth_gb_per_s / 2, rel=0.01)


def test_mig_instances_do_not_train_together():
    twins = [RecordedGpu("GPU-a", mig_slots=[mig("MIG-1", 3, 40448 * MIB), mig("MIG-2", 3, 40448 * MIB)])]
    group = inventory_of_gpus(local_gpus(RecordedNvml(twins), {})).group
    assert group.world_size == 1


def test_an_unknown_gpu_is_estimated():
    known = find("RTX4090").gpu
    unknown = RecordedGpu(
        "GPU-a", "NVIDIA Unheard Of", total=24564 * MIB, reserved=480 * MIB, capability=(8, 9)
    )
    unknown.cores, unknown.sm_mhz, unknown.memory_mhz, unknown.bus_bits = 16384, 2520, 10501, 384
    (local,) = local_gpus(RecordedNvml([unknown]), {})
    assert local.gpu.name == "Unheard Of"
    assert local.gpu.features == known.features
    assert local.gpu.bandwidth_gb_per_s == pytest.approx(known.bandwidth_gb_per_s, rel=0.01)
    for precision in ("fp32", "bf16", "fp8"):
        assert local.gpu.tflops[precision] == pytest.approx(known.tflops[precision], rel=0.01)
    assert "estimated" in local.gpu.source


@pytest.mark.parametrize(
    ("capability", "features"),
    [
        ((6, 1), {"cuda"}),
        ((7, 5), {"cuda", "fp16"}),
        ((8, 6), {"cuda", "fp16", "bf16"}),
        ((12, 0), {"cuda", "fp16", "bf16", "fp8"}),
    ],
)
def test_features_of_an_unknown_gpu_follow_from_its_generation(capability, features):
    gpu = RecordedGpu("GPU-a", name="?", capability=capability, cores=1, sm_mhz=1, memory_mhz=1, bus_bits=64)
    (local,) = local_gpus(RecordedNvml([gpu]), {})
    assert local.gpu.features == features
    assert set(local.gpu.tflops) == {"fp32", *features} - {"cuda"}


def test_a_mixed_machine_has_a_group_for_each_kind():
    gpus = [
        RecordedGpu("GPU-1", name="Tesla T4", total=15360 * MIB),
        RecordedGpu("GPU-2"),
        RecordedGpu("GPU-3"),
    ]
    gpus[2].reserved += MIB
    first, second = inventory_of_gpus(local_gpus(RecordedNvml(gpus), {})).groups
    assert (first.gpu.name, first.gpus_per_node) == ("H100-80GB", 2)
    assert first.gpu.memory_bytes == (81559 - 552) * MIB, "the smaller of the two"
    assert (second.gpu.name, second.gpus_per_node) == ("T4", 1)
    assert first.host_memory_bytes


def node(alive: bool = True, labels: dict[str, str] | None = None, **resources: float) -> dict[str, Any]:
    named = {key.replace("__", ":"): value for key, value in resources.items()}
    return {"Alive": alive, "Resources": {"CPU": 8.0, **named}, "Labels": labels or {}}


def test_equal_nodes_of_a_cluster_are_one_group():
    nodes = [
        node(memory=1e9),  # the head
        node(GPU=8.0, accelerator_type__H100=1.0),
        node(GPU=8.0, labels={"ray.io/accelerator-type": "H100"}),
        node(GPU=4.0, accelerator_type__A100=1.0),
        node(alive=False, GPU=8.0, accelerator_type__H100=1.0),
    ]
    first, second = inventory_of_nodes(nodes).groups
    assert (first.gpu.name, first.num_nodes, first.gpus_per_node) == ("H100-80GB", 2, 8)
    assert (second.gpu.name, second.num_nodes, second.gpus_per_node) == ("A100-40GB", 1, 4)


def test_a_cluster_without_gpus_trains_on_its_cpus():
    nodes = [
        node(memory=12.4 * GIB, object_store_memory=4 * GIB),
        node(memory=12.1 * GIB, object_store_memory=4 * GIB),
    ]
    group = inventory_of_nodes(nodes).group
    assert (group.gpu.kind, group.num_nodes, group.gpus_per_node) == ("cpu", 2, 8)
    assert group.gpu.memory_bytes == 2 * GIB


def test_ranks_on_the_cpus_of_a_cluster_share_the_memory_of_the_smallest_node_that_has_cores_enough():
    nodes = [
        node(memory=12 * GIB, object_store_memory=4 * GIB),
        node(memory=28 * GIB, object_store_memory=4 * GIB),
        node(memory=GIB, object_store_memory=GIB, CPU=1.0),
        node(memory=GIB, object_store_memory=GIB, alive=False),
    ]
    group = cpu_group_of_nodes(nodes, 2, 4)
    assert (group.gpu.kind, group.num_nodes, group.gpus_per_node) == ("cpu", 2, 4)
    assert (group.host_memory_bytes, group.gpu.memory_bytes) == (16 * GIB, 4 * GIB)
    assert cpu_group_of_nodes(nodes, 3, 1).gpu.memory_bytes == 2 * GIB
    assert cpu_group_of_nodes(nodes, 3, 2) is None


def test_gpus_that_the_cluster_does_not_name():
    with pytest.raises(BadInput, match="calls its GPUs 'G', which the catalogue does not know"):
        inventory_of_nodes([node(GPU=2.0, accelerator_type__G=1.0)])
    with pytest.raises(BadInput, match="calls its GPUs ''"):
        inventory_of_nodes([node(GPU=2.0)])


def test_a_cluster_without_nodes():
    with pytest.raises(ExecutionUnavailable, match="no node"):
        inventory_of_nodes([])


@pytest.mark.timeout(120)
def test_a_real_ray_cluster(monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    small = {"memory": GIB, "object_store_memory": 80 * MIB, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, **small})
    try:
        cluster.add_node(num_cpus=1, num_gpus=2, resources={"accelerator_type:H100": 1}, **small)
        inventory = detect(cluster.address)
        assert not ray.is_initialized(), "the connection was ours and is closed"
        assert [(group.gpu.name, group.world_size) for group in inventory.groups] == [("H100-80GB", 2)]
        monkeypatch.setattr("autotune.hardware.detect.KNOWN_S", 60.0)
        monkeypatch.setattr(
            ray, "init", lambda **_: pytest.fail("a cluster that was just asked is joined again")
        )
        group = parse_inventory("cpu:1", cluster.address).group
        assert group.gpu.memory_bytes == GIB, "what the nodes have, not this machine"
        many = parse_inventory("3x1xcpu", cluster.address).group
        assert many.gpu.memory_bytes == cpu_memory_bytes(), "for the executor to refuse"
    finally:
        cluster.shutdown()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999", "no.such.host.invalid:1"]
)
def test_a_cluster_that_does_not_answer(address):
    with pytest.raises(ExecutionUnavailable, match=f"no Ray cluster answers at {address}: "):
        ray_devices(address)
