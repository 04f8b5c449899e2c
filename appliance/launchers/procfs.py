"""What the kernel knows of processes, read from /proc (see proc(5)).

A pid alone names nothing: it is reused. A process is named by its pid, its start time in clock ticks since boot,
and the boot. Standard library only: the shim imports this module.
"""

# Without pathlib, which would be a good part of the shim's start-up time.
# ruff: noqa: PTH123, PTH208
from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_DEAD = b"ZXx"
_KIB = 1024


class Process:
    """One line of `/proc/<pid>/stat`; `cpu_ticks` includes the children it has waited for."""

    __slots__ = ("cpu_ticks", "dead", "parent", "pid", "session", "ticks")

    def __init__(self, pid: int, line: bytes) -> None:
        fields = line[line.rindex(b")") + 2 :].split()
        self.pid = pid
        self.dead = fields[0] in _DEAD
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.cpu_ticks = sum(map(int, fields[11:15]))
        self.ticks = int(fields[19])


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _read(path: str) -> bytes | None:
    """The file's content; None where the process is gone or another user's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        content = b""
        while chunk := os.read(descriptor, 65536):
            content += chunk
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return content


def read_process(pid: int) -> Process | None:
    line = _read(f"/proc/{pid}/stat")
    return Process(pid, line) if line else None


def is_alive(pid: int, ticks: int) -> bool:
    """Whether this very process runs; a zombie does not."""
    process = read_process(pid)
    return process is not None and process.ticks == ticks and not process.dead


def children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        found.extend(map(int, (_read(f"/proc/{pid}/task/{thread}/children") or b"").split()))
    return found


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, at one moment at best: one that forks meanwhile may be missed."""
    found: list[int] = []
    pending = [pid]
    while pending:
        below = children(pending.pop())
        found.extend(below)
        pending.extend(below)
    return found


def resident_bytes(pid: int) -> int:
    """Anonymous and shared memory of one process; mapped files are not counted."""
    total = 0
    for line in (_read(f"/proc/{pid}/status") or b"").splitlines():
        if line.startswith((b"RssAnon:", b"RssShmem:")):
            total += int(line.split()[1]) * _KIB
    return total


def open_process(pid: int, ticks: int) -> int | None:
    """A descriptor (pidfd) for this very process, or None when it is gone: signals through it cannot go astray."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    if is_alive(pid, ticks):
        return descriptor
    os.close(descriptor)
    return None


def _others() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def marked(marker: str) -> list[int]:
    """Processes, not this one, whose initial environment holds the entry `marker` (`NAME=value`).

    One that overwrote the memory of its environment, as those do that set their own title, is not found.
    """
    entry = b"\0" + marker.encode() + b"\0"
    return [pid for pid in _others() if entry in b"\0" + (_read(f"/proc/{pid}/environ") or b"")]


def autogroup(pid: int) -> str:
    """The scheduler's group of a process: the kernel gives each new session a new number, which its processes keep
    (sched(7)). Empty where the kernel has no such groups.
    """
    return (_read(f"/proc/{pid}/autogroup") or b"").partition(b" ")[0].decode("ascii")


class Session:
    """The session that the process `leader` made at its start, at `ticks`, in the scheduler's group `group`.

    Its number stays taken while a process is in it, and may be given to another session afterwards; hence the rest.
    """

    __slots__ = ("group", "leader", "ticks")

    def __init__(self, leader: int, ticks: int, group: str) -> None:
        self.leader = leader
        self.ticks = ticks
        self.group = group

    def members(self) -> list[int]:
        """Every process of the session, and what these have started, in whatever session."""
        found: set[int] = set()
        for pid in _others():
            process = read_process(pid)
            if process is None or process.session != self.leader:
                continue
            if pid == self.leader and process.ticks != self.ticks:
                return []  # another process leads a session of this number now: ours is empty
            if not process.dead and process.ticks >= self.ticks and autogroup(pid) == self.group:
                found.update((pid, *descendants(pid)))
        return list(found)


def kill_found(find: Callable[[], list[int]], *, timeout_s: float) -> bool:
    """SIGKILL every process that `find` names, also those that they fork meanwhile; whether all are gone."""
    deadline = time.monotonic() + timeout_s
    while descriptors := _pin(find):
        try:
            for descriptor in descriptors:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            gone = [_wait_until_gone(descriptor, deadline) for descriptor in descriptors]
            if not all(gone):
                return False
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
    return True


def _pin(find: Callable[[], list[int]]) -> list[int]:
    """Descriptors (pidfd) of what `find` names twice: before and, as a pid may change hands, after they were opened."""
    opened = {}
    for pid in find():
        with suppress(OSError):
            opened[pid] = os.pidfd_open(pid)
    still = set(find()) if opened else set()
    for pid in opened.keys() - still:
        os.close(opened.pop(pid))
    return list(opened.values())


def _wait_until_gone(descriptor: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
