"""What the CPU offers, as its cgroups limit it."""

from pathlib import Path

import psutil
import pytest

from autotune.hardware.cpu import TFLOPS, cpu_cores, cpu_device, cpu_flags, cpu_group, cpu_memory_bytes

GIB = 2**30


@pytest.fixture
def write(tmp_path):
    """A file under a root that stands for `/`."""

    def write_file(path: str, text: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return tmp_path

    return write_file


def test_this_machine():
    assert 0 < cpu_memory_bytes() <= psutil.virtual_memory().total
    assert 1 <= cpu_cores() <= (psutil.cpu_count() or 1)
    assert set(cpu_device(GIB).tflops) == {"fp32", "bf16", "fp16"}


def test_without_cgroups_it_is_the_machine(tmp_path):
    assert cpu_memory_bytes(tmp_path) == psutil.virtual_memory().total
    assert cpu_flags(tmp_path) == frozenset()


def test_v2_takes_the_least_of_its_group_and_all_above(write):
    write("proc/self/cgroup", "0::/job/step\n")
    write("sys/fs/cgroup/job/step/memory.max", "max\n")
    write("sys/fs/cgroup/job/memory.max", f"{GIB}\n")
    root = write("sys/fs/cgroup/memory.max", f"{2 * GIB}\n")
    assert cpu_memory_bytes(root) == GIB


def test_v1_and_its_number_for_no_limit(write):
    write("proc/self/cgroup", "5:devices:/x\n4:cpu,memory:/job\n0::/\n")
    root = write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n")
    assert cpu_memory_bytes(root) == psutil.virtual_memory().total
    write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", f"{GIB}\n")
    assert cpu_memory_bytes(root) == GIB


def test_a_namespace_shows_only_the_mount(write):
    write("proc/self/cgroup", "0::/docker/0123abcd\n")
    root = write("sys/fs/cgroup/memory.max", f"{GIB}\n")
    assert cpu_memory_bytes(root) == GIB


def test_limits_outside_the_mount_are_not_read(write):
    write("proc/self/cgroup", "0::/../../job\n")
    root = write("memory.max", "1\n")
    assert cpu_memory_bytes(root) == psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("quota", "cores"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None)]
)
def test_a_quota_of_v2_limits_the_cores(write, quota, cores):
    write("proc/self/cgroup", "0::/\n")
    assert cpu_cores(write("sys/fs/cgroup/cpu.max", quota)) == (cores or cpu_cores(Path("/nowhere")))


def test_a_quota_of_v1_limits_the_cores(write):
    write("proc/self/cgroup", "1:cpu:/job\n")
    write("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n")
    root = write("sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n")
    assert cpu_cores(root) == cpu_cores(Path("/nowhere"))
    write("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "100000\n")
    assert cpu_cores(root) == 1


def test_instruction_sets_decide_the_rates(write, monkeypatch):
    root = write("proc/cpuinfo", "processor : 0\nflags\t\t: fpu avx2 sse\nflags : fpu\n")
    assert cpu_flags(root) == {"fpu", "avx2", "sse"}
    monkeypatch.setattr("autotune.hardware.cpu.cpu_flags", lambda: cpu_flags(root))
    assert cpu_device(GIB).tflops == {"fp32": 0.09, "bf16": 0.03, "fp16": 0.03}
    assert all(table[-1][0] == "" for table in TFLOPS.values())


def test_by_default_every_core_is_a_rank_if_it_has_memory(monkeypatch):
    monkeypatch.setattr("autotune.hardware.cpu.cpu_cores", lambda: 8)
    monkeypatch.setattr("autotune.hardware.cpu.cpu_memory_bytes", lambda: 6 * GIB)
    group = cpu_group()
    assert (group.gpus_per_node, group.gpu.memory_bytes) == (3, 2 * GIB)
    monkeypatch.setattr("autotune.hardware.cpu.cpu_memory_bytes", lambda: GIB)
    assert cpu_group().gpus_per_node == 1
