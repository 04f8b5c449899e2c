"""Limits of one engine by control groups, where this process may make them; cgroup v1 and v2.

Without that right there is no limit: RLIMIT_AS would break every engine that reserves address space (CUDA does),
and RLIMIT_NPROC counts a whole user. What is in force is said in the replica's state.

v2: a group can only be made beside this process's own (a group with processes has no controllers to give), and is
only made where systemd says that the parent is ours: `Delegate=yes` with `DelegateSubgroup=`.
"""

# Without pathlib, which would be a good part of the shim's start-up time.
# ruff: noqa: PTH102, PTH106, PTH123
from __future__ import annotations

import os
from contextlib import suppress

_ROOT = "/sys/fs/cgroup"
_OWN = "/proc/self/cgroup"
_PERIOD_US = 100_000


class Limits:
    """`cpus` in cores; None is no limit."""

    __slots__ = ("cpus", "memory_bytes", "pids")

    def __init__(self, *, cpus: float | None, memory_bytes: int | None, pids: int | None) -> None:
        self.cpus = cpus
        self.memory_bytes = memory_bytes
        self.pids = pids

    def files(self, *, unified: bool) -> dict[str, list[tuple[str, str, bool]]]:
        """By controller: file, value, and whether it must be there (swap accounting may be off)."""
        quota = None if self.cpus is None else round(self.cpus * _PERIOD_US)
        wanted: dict[str, list[tuple[str, str, bool]]] = {}
        if self.memory_bytes is not None:
            memory = str(self.memory_bytes)
            wanted["memory"] = (
                [("memory.max", memory, True), ("memory.swap.max", "0", False), ("memory.oom.group", "1", False)]
                if unified
                else [("memory.limit_in_bytes", memory, True), ("memory.memsw.limit_in_bytes", memory, False)]
            )
        if self.pids is not None:
            wanted["pids"] = [("pids.max", str(self.pids), True)]
        if quota is not None:
            wanted["cpu"] = [
                ("cpu.max", f"{quota} {_PERIOD_US}", True) if unified else ("cpu.cfs_quota_us", str(quota), True)
            ]
        return wanted


class Groups:
    """The groups made for one engine; `enforced` names the controllers whose limit is in force."""

    __slots__ = ("enforced", "paths")

    def __init__(self, paths: list[str], enforced: list[str]) -> None:
        self.paths = paths
        self.enforced = enforced

    def join(self) -> None:
        """Put the calling process, and all that it will start, into the groups."""
        for path in self.paths:
            _write(f"{path}/cgroup.procs", "0")

    def members(self) -> list[int]:
        found: set[int] = set()
        for path in self.paths:
            with suppress(OSError), open(f"{path}/cgroup.procs", encoding="ascii") as file:
                found.update(map(int, file))
        return list(found)

    def out_of_memory(self) -> bool:
        """Whether the kernel killed a member for memory."""
        return any(
            _counter(f"{path}/{file}", "oom_kill") > 0
            for path in self.paths
            for file in ("memory.events", "memory.oom_control")
        )

    def remove(self) -> None:
        """Only an empty group can be removed; one with processes stays, and says that they are there."""
        for path in self.paths:
            with suppress(OSError):
                os.rmdir(path)


def make(name: str, limits: Limits) -> Groups:
    """Groups called `name` with what can be enforced; none where this process may not make any."""
    paths: list[str] = []
    enforced: list[str] = []
    for controllers, parent in _parents():
        unified = "" in controllers
        files = limits.files(unified=unified)
        chosen = [controller for controller in files if unified or controller in controllers]
        if not chosen:
            continue
        path = f"{parent}/{name}"
        try:
            if unified:
                _write(f"{parent}/cgroup.subtree_control", " ".join(f"+{controller}" for controller in chosen))
            with suppress(FileExistsError):
                os.mkdir(path)
            for controller in chosen:
                _apply(path, files[controller])
        except OSError:
            with suppress(OSError):
                os.rmdir(path)
            continue
        paths.append(path)
        enforced.extend(chosen)
    return Groups(paths, enforced)


def _parents() -> list[tuple[list[str], str]]:
    """Per hierarchy: its controllers (v2: the empty name) and the folder that new groups may go into."""
    found = []
    with open(_OWN, encoding="ascii", errors="replace") as file:
        lines = file.read().splitlines()
    for line in lines:
        _, names, own = line.split(":", 2)
        controllers = names.split(",")
        if names:
            parent = f"{_ROOT}/{names}{own.rstrip('/')}"
        elif len(lines) == 1 and _is_delegated(parent := f"{_ROOT}{own.rsplit('/', 1)[0]}"):
            pass
        else:
            continue
        if os.access(parent, os.W_OK):
            found.append((controllers, parent))
    return found


def _is_delegated(path: str) -> bool:
    """Whether systemd gave the group away (the attribute is set since systemd 251)."""
    try:
        return os.getxattr(path, "user.delegate") == b"1"
    except OSError:
        return False


def _apply(path: str, files: list[tuple[str, str, bool]]) -> None:
    for file, value, required in files:
        try:
            _write(f"{path}/{file}", value)
        except OSError:
            if required:
                raise


def _write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _counter(path: str, key: str) -> int:
    try:
        with open(path, encoding="ascii") as file:
            pairs = [line.split() for line in file]
    except OSError:
        return 0
    return next((int(value) for name, value in pairs if name == key), 0)
