"""What runs on the machine, read from /proc: processes, their ancestry and marks, and listening TCP ports."""

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support.waiting import eventually, eventually_async

__all__ = ["Listener", "Process", "ProcessTable", "eventually", "eventually_async", "listeners"]

PROC = Path("/proc")
_TCP_LISTEN = "0A"


@dataclass(frozen=True, slots=True)
class Process:
    """One process at the time of the snapshot. `started` (clock ticks since boot) tells a reused pid."""

    pid: int
    parent: int
    session: int
    state: str
    started: int
    arguments: tuple[str, ...]
    environ: Mapping[str, str]

    @property
    def command_line(self) -> str:
        return " ".join(self.arguments)

    @property
    def is_zombie(self) -> bool:
        return self.state == "Z"

    def is_running(self) -> bool:
        """Whether this very process still runs now."""
        now = _read(self.pid)
        return now is not None and now.started == self.started and not now.is_zombie


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening TCP socket; `pids` are the processes that hold it (several when it was inherited)."""

    host: str
    port: int
    inode: int
    pids: frozenset[int]


class ProcessTable:
    """A snapshot; processes that end while it is taken are left out."""

    def __init__(self, processes: Mapping[int, Process]) -> None:
        self._processes = processes

    @classmethod
    def snapshot(cls) -> Self:
        found = (_read(pid) for pid in _pids())
        return cls({process.pid: process for process in found if process is not None})

    def __iter__(self) -> Iterator[Process]:
        return iter(self._processes.values())

    def get(self, pid: int) -> Process | None:
        return self._processes.get(pid)

    def descendants(self, pid: int) -> list[Process]:
        """Children, their children and so on. A process whose parent ended belongs to pid 1 or a subreaper."""
        children: dict[int, list[Process]] = {}
        for process in self:
            children.setdefault(process.parent, []).append(process)
        found, queue = [], [pid]
        while queue:
            below = children.get(queue.pop(), [])
            found += below
            queue += [process.pid for process in below]
        return found

    def with_environ(self, name: str, value: str) -> list[Process]:
        """The processes whose environment has the entry: a mark that a test gives what it starts, and that
        children inherit however they daemonise."""
        return [process for process in self if process.environ.get(name) == value]

    def mentioning(self, text: str) -> list[Process]:
        """The processes with `text` in their command line (a folder's path, say)."""
        return [process for process in self if any(text in argument for argument in process.arguments)]


def listeners() -> list[Listener]:
    """The listening TCP sockets of this network namespace."""
    holders: dict[int, set[int]] = {}
    for pid in _pids():
        for inode in _socket_inodes(pid):
            holders.setdefault(inode, set()).add(pid)
    found = []
    for table in ("tcp", "tcp6"):
        for line in (PROC / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _TCP_LISTEN:
                address, _, port = fields[1].partition(":")
                inode = int(fields[9])
                pids = frozenset(holders.get(inode, ()))
                found.append(Listener(_host(address), int(port, 16), inode, pids))
    return found


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal())


def _read(pid: int) -> Process | None:
    folder = PROC / str(pid)
    try:
        stat = (folder / "stat").read_text()
        arguments = (folder / "cmdline").read_bytes()
        environ = _environ(folder)
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the name in parentheses, which may itself contain anything: proc(5).
    fields = stat.rpartition(")")[2].split()
    return Process(
        pid=pid,
        state=fields[0],
        parent=int(fields[1]),
        session=int(fields[3]),
        started=int(fields[19]),
        arguments=tuple(os.fsdecode(part) for part in arguments.split(b"\0") if part),
        environ=environ,
    )


def _environ(folder: Path) -> dict[str, str]:
    """Empty where it may not be read: another user's process is not one of the tests."""
    try:
        content = os.fsdecode((folder / "environ").read_bytes())
    except PermissionError:
        return {}
    entries = (entry.partition("=") for entry in content.split("\0") if "=" in entry)
    return {name: value for name, _, value in entries}


def _socket_inodes(pid: int) -> Iterator[int]:
    folder = PROC / str(pid) / "fd"
    try:
        descriptors = list(folder.iterdir())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return
    for descriptor in descriptors:
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue  # closed meanwhile
        if match := re.fullmatch(r"socket:\[(\d+)\]", target):
            yield int(match[1])


def _host(address: str) -> str:
    """From the kernel's form: 32-bit words in the machine's (little-endian) order, in hexadecimal."""
    words = [address[start : start + 8] for start in range(0, len(address), 8)]
    packed = b"".join(bytes.fromhex(word)[::-1] for word in words)
    return str(ipaddress.ip_address(packed))
