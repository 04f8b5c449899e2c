"""What this machine has besides accelerators, as far as our control group lets us use it.

Files: proc(5), cgroups(7); cgroup v2 `memory.max` and `cpu.max` of every level up to the root, cgroup v1
`memory.limit_in_bytes` and `cpu.cfs_quota_us` of the level that a container shows.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

RESERVE_SHARE = 0.05
LEAST_RESERVE = 512 * 1024**2


class Machine(Struct, frozen=True):
    """`memory_bytes` is what replicas may claim, after a reserve for the system and the appliance itself."""

    name: str
    boot_id: str
    cpus: float
    memory_bytes: int


def read_machine(root: Path = Path("/")) -> Machine:
    """Read anew at every call: limits of a control group change while it runs."""
    total = min([_total_memory(root), *_memory_limits(root)])
    reserve = min(max(LEAST_RESERVE, int(total * RESERVE_SHARE)), total // 2)
    return Machine(
        name=socket.gethostname().split(".")[0],
        boot_id=(root / "proc/sys/kernel/random/boot_id").read_text().strip(),
        cpus=min([float(len(os.sched_getaffinity(0))), *_cpu_limits(root)]),
        memory_bytes=total - reserve,
    )


def _total_memory(root: Path) -> int:
    for line in (root / "proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{root}/proc/meminfo has no MemTotal")


def _memory_limits(root: Path) -> Iterator[int]:
    for folder in _groups(root, ""):
        if (text := _read(folder / "memory.max")).isdigit():
            yield int(text)
    for folder in _groups(root, "memory"):
        if (text := _read(folder / "memory.limit_in_bytes")).isdigit():
            yield int(text)


def _cpu_limits(root: Path) -> Iterator[float]:
    for folder in _groups(root, ""):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)
    for folder in _groups(root, "cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Our control group's folders from the innermost to the root; `controller` empty means cgroup v2.

    In a container the path of /proc/self/cgroup may be the host's and not exist below the mount: those levels read
    as empty and the mount's root, which is the container's own group, is reached all the same.
    """
    base = root / "sys/fs/cgroup" / controller
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            inner = base / path.lstrip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(base))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
