"""CPU and memory of a machine, as its files and its control group say."""

from pathlib import Path

import pytest

from gpu.machine import read_machine

GIB = 1024**3


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "proc/meminfo": f"MemTotal: {100 * GIB // 1024} kB\nMemFree: 1 kB\n",
        "proc/sys/kernel/random/boot_id": "3f1c\n",
    }
    for name, text in files.items():
        write(tmp_path, name, text)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_a_machine_without_limits(root: Path) -> None:
    machine = read_machine(root)
    assert machine.boot_id == "3f1c"
    assert machine.cpus >= 1
    assert machine.memory_bytes == 95 * GIB


def test_limits_of_control_groups_v2_hold_at_every_level(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/system.slice/appliance.service\n")
    write(root, "sys/fs/cgroup/system.slice/memory.max", f"{20 * GIB}\n")
    write(root, "sys/fs/cgroup/system.slice/cpu.max", "50000 100000\n")
    write(root, "sys/fs/cgroup/system.slice/appliance.service/memory.max", "max\n")
    write(root, "sys/fs/cgroup/system.slice/appliance.service/cpu.max", "max 100000\n")
    machine = read_machine(root)
    assert machine.cpus == 0.5
    assert machine.memory_bytes == 19 * GIB


def test_limits_of_control_groups_v1(root: Path) -> None:
    """In a container the path is the host's; the mount shows the container's own group at its root."""
    write(root, "proc/self/cgroup", "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/docker/abc\n")
    write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{4 * GIB}\n")
    write(root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "25000\n")
    write(root, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    machine = read_machine(root)
    assert machine.cpus == 0.25
    assert machine.memory_bytes == 4 * GIB - 512 * 1024**2


def test_a_tiny_machine_keeps_half(root: Path) -> None:
    write(root, "proc/meminfo", f"MemTotal: {GIB // 2 // 1024} kB\n")
    assert read_machine(root).memory_bytes == GIB // 4


def test_this_machine_can_be_read() -> None:
    machine = read_machine()
    assert machine.cpus > 0
    assert machine.memory_bytes > 0
    assert machine.name
