"""How long the control plane takes to be ready, and how much memory its processes hold when nobody asks."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.appliance import Appliance


def seconds_to_ready(appliance: Appliance) -> float:
    """One start upon a home that was used before, from the process's start until /readyz answers 200."""
    appliance.stop()
    began = time.monotonic()
    appliance.start()
    return time.monotonic() - began


def resident_bytes(appliance: Appliance) -> dict[str, int]:
    """Resident memory (shared libraries included, as `ps` shows it) of the processes that are always there."""
    processes = {"control plane": appliance.pid, "gateway supervisor": appliance.pid_of("supervisor")}
    processes |= {f"gateway worker {number}": appliance.pid_of(f"worker-{number}") for number in range(2)}
    return {name: _resident(pid) for name, pid in processes.items()}


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))
