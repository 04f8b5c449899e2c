"""Which processes of this machine belong to replicas of this appliance: asked of those that hold device memory.

A process replica's handle begins with its shim's pid, under which its processes live; what has left that tree has the
marker in its environment. A container's handle is its id, which is in its processes' control groups.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from appliance.launchers import procfs
from appliance.launchers.contract import ObservedReplica, ReplicaState
from appliance.launchers.process.launcher import MARKER


def pids_of(
    replicas: Iterable[ObservedReplica], pids: Collection[int], *, proc: Path = Path("/proc")
) -> Collection[int]:
    """Those of `pids` that are processes of these replicas. Reads /proc; one that is gone meanwhile is nobody's."""
    if not pids:
        return frozenset()
    running = [replica for replica in replicas if replica.state is ReplicaState.RUNNING]
    shims = {int(pid) for replica in running if (pid := replica.handle.partition(":")[0]).isdecimal()}
    containers = [replica.handle for replica in running if ":" not in replica.handle]
    names = {replica.replica_id for replica in running}
    return {
        pid
        for pid in pids
        if not shims.isdisjoint(_ancestry(pid))
        or any(container in _text(proc / str(pid) / "cgroup") for container in containers)
        or _marked(proc / str(pid)) in names
    }


def _ancestry(pid: int) -> Iterator[int]:
    while pid > 1:
        yield pid
        process = procfs.read_process(pid)
        if process is None:
            return
        pid = process.parent


def _marked(process: Path) -> str:
    entries = _text(process / "environ").split("\0")
    return next((entry.partition("=")[2] for entry in entries if entry.startswith(f"{MARKER}=")), "")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
