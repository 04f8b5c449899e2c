"""How many CPU threads are worth having.

More threads than the control group's quota allows are throttled together, which costs more than they bring.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cpus(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """CPUs that this process may use: its affinity, within the quotas of its control groups (version 1 or 2)."""
    available = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _folders(cgroups, own) if (quota := _quota(folder)) is not None]
    return max(1, min([available, *(math.ceil(quota) for quota in quotas)]))


def _folders(cgroups: Path, own: Path) -> list[Path]:
    """The process's own group and those around it, as far as they are visible here."""
    lines = own.read_text().splitlines() if own.exists() else []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / "cpu" if controllers else cgroups
        inside = root / path.lstrip("/")
        folders += [inside, *(parent for parent in inside.parents if parent.is_relative_to(root))]
    return folders


def _quota(folder: Path) -> float | None:
    """CPUs that a group may use, or None where it sets no bound."""
    if (unified := folder / "cpu.max").is_file():
        quota, period = unified.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    if (legacy := folder / "cpu.cfs_quota_us").is_file():
        microseconds = int(legacy.read_text())
        return None if microseconds < 0 else microseconds / int((folder / "cpu.cfs_period_us").read_text())
    return None
