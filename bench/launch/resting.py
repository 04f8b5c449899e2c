"""How long the control plane takes to be ready, and how much memory its processes hold when nobody asks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from tests.support.appliance import Appliance
from tests.support.waiting import POLL_S, eventually

_STEADY_LOOKS: Final = round(1.0 / POLL_S)
_DEADLINE_S: Final = 30.0


def seconds_to_ready(appliance: Appliance) -> float:
    """One start upon a home that was used before, from the process's start until /readyz answers 200."""
    appliance.stop()
    began = time.monotonic()
    appliance.start()
    return time.monotonic() - began


def resident_bytes(appliance: Appliance) -> dict[str, int]:
    """Resident memory (shared libraries included, as `ps` shows it) of the processes that are always there, once
    it has not grown for a second.
    """
    names = {"gateway supervisor": "supervisor", "gateway worker 0": "worker-0", "gateway worker 1": "worker-1"}
    folder = appliance.home / "run"
    eventually(lambda: all((folder / f"{name}.pid").exists() for name in names.values()), message="the gateway runs")
    processes = {"control plane": appliance.pid} | {told: appliance.pid_of(name) for told, name in names.items()}
    seen: list[dict[str, int]] = []

    def is_steady() -> bool:
        seen.append({name: _resident(pid) for name, pid in processes.items()})
        return len(seen) > _STEADY_LOOKS and all(look == seen[-1] for look in seen[-_STEADY_LOOKS:])

    eventually(is_steady, _DEADLINE_S, message="memory is steady")
    return seen[-1]


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))
