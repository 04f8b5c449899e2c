"""Processes of a measurement: started on a core of their own, measured from outside, ended with all their children."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.waiting import eventually

_STOP_S: Final = 15.0
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Cores(NamedTuple):
    """The peer under test has `peer` for itself; `load` is the upstream's, the load generator's and the bench's."""

    peer: int
    load: int


def two_cores() -> Cores:
    """`OSError` on a machine where a peer would share its core with the load."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise OSError("two cores are needed: one for the gateway under test, one for upstream and load generator")
    return Cores(allowed[0], allowed[1])


def find(command: str) -> str:
    """`OSError` with what to install."""
    found = shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise OSError(f"{command} is not installed; on Debian: apt-get install {_PACKAGES.get(command, command)}")
    return found


_PACKAGES: Final = {"nginx": "nginx-light", "cc": "gcc libc6-dev"}


@contextmanager
def started(
    command: Sequence[str], *, core: int, log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own (so that Ctrl-C reaches the bench first), ended with its whole tree."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", str(core), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environ or {})},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    family = tree(process.pid)
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    for pid, started_at in family.items():
        if _start_ticks(pid) == started_at:  # not another process that got the number meanwhile
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


def tree(root: int) -> dict[int, int]:
    """The process and its descendants: pid to start time, which together are an identity."""
    found: dict[int, int] = {}
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        ticks = _start_ticks(pid)
        if ticks is None or pid in found:
            continue
        found[pid] = ticks
        with suppress(FileNotFoundError, ProcessLookupError):
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting += [int(child) for child in children.read_text().split()]
    return found


def _start_ticks(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of these processes, all threads, to the nanosecond (clock_getcpuclockid(3))."""
    return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids) / 1e9


def resident_bytes(pids: Sequence[int]) -> int:
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * _PAGE


def steady_resident_bytes(pids: Sequence[int]) -> int:
    """Once it has not changed by more than a page per process for half a second."""
    seen: list[int] = []

    def is_steady() -> bool:
        seen.append(resident_bytes(pids))
        return len(seen) > 25 and max(seen[-25:]) - min(seen[-25:]) <= _PAGE * len(pids)

    eventually(is_steady, 20.0, message="resident memory is steady")
    return seen[-1]
