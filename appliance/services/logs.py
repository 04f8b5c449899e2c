"""The logs of replicas: read from the launcher while it knows the replica, then from the kept files; then removed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import select

from appliance.kernel.ids import is_id
from appliance.kernel.leases import Guarded
from appliance.launchers import logfiles
from appliance.launchers.contract import Launcher
from appliance.launchers.errors import ReplicaUnknown
from appliance.services.tables import ReplicaRow


async def read_log(launcher: Launcher, logs: Path, replica_id: str, tail: int) -> str:
    """The last `tail` lines."""
    try:
        lines = await launcher.logs(replica_id, tail=tail)
    except ReplicaUnknown:
        lines = await asyncio.to_thread(logfiles.read_lines, logs / f"{replica_id}.log", tail=tail)
    return "".join(f"{line}\n" for line in lines)


async def sweep_logs(guarded: Guarded, logs: Path) -> int:
    """Remove the logs of replicas that are listed no more; how many files.

    The folder is read before the rows: whatever has a log by then was recorded before it was started.
    """
    files = await asyncio.to_thread(_files_of_replicas, logs)
    async with guarded.read() as session:
        listed = set((await session.scalars(select(ReplicaRow.id))).all())
    old = [file for file in files if _replica_of(file) not in listed]
    await asyncio.to_thread(_remove, old)
    return len(old)


def _files_of_replicas(logs: Path) -> list[Path]:
    return [file for file in logs.iterdir() if is_id(_replica_of(file), "rpl")]


def _replica_of(file: Path) -> str:
    """A log's name is the replica's id with suffixes."""
    return file.name.partition(".")[0]


def _remove(files: list[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
