"""Reading a replica's log: from the launcher while it knows the replica, from the kept file afterwards."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path

from appliance.launchers.contract import Launcher
from appliance.launchers.errors import ReplicaUnknown


async def read_log(launcher: Launcher, logs: Path, replica_id: str, tail: int) -> str:
    """The last `tail` lines."""
    try:
        lines = await launcher.logs(replica_id, tail=tail)
    except ReplicaUnknown:
        lines = await asyncio.to_thread(_kept, logs / f"{replica_id}.log", tail)
    return "".join(f"{line}\n" for line in lines)


def _kept(path: Path, tail: int) -> list[str]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=tail)]
