#!/usr/bin/env python3
"""Runs a command and fails when it leaves a process behind: `leftovers.py GRACE_S COMMAND...`.

Names do not tell: an engine's workers overwrite their arguments and their environment, and a daemon has a session of
its own. This process makes itself the one that orphans below it are given to (`PR_SET_CHILD_SUBREAPER`, prctl(2)),
so that whatever the command started is its child in the end. What still runs `GRACE_S` seconds after the command's end
(what was told to end may need a moment) is shown and killed. The exit status is the command's; 1 where it was 0 and
something was left.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.1


def main(grace_s: float, command: list[str]) -> int:
    become_subreaper()
    process = subprocess.Popen(command)  # noqa: S603 - the caller's
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: process.send_signal(number))
    status = reap_until(process.pid)
    left = left_behind(grace_s)
    for line in left:
        print(f"left behind: {line}", file=sys.stderr)  # noqa: T201
    return status or (1 if left else 0)


def become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reap_until(pid: int) -> int:
    """Take the orphans' ends until the command itself has ended; its exit status, as a shell has it."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def left_behind(grace_s: float) -> list[str]:
    """What runs when the time of grace is over, a line each; all of it is killed, with what it started."""
    deadline = time.monotonic() + grace_s
    while children() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    found: list[str] = []
    while running := children():
        for pid in running:
            found.append(told(pid))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)  # its own children are ours now
    return found


def children() -> list[int]:
    """Running ones; those that have ended are reaped."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return []
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    return [int(pid) for pid in listed.split()]


def told(pid: int) -> str:
    """The process, by what it cannot overwrite (its program, its folder) and by what it says of itself."""
    folder = Path(f"/proc/{pid}")
    try:
        arguments = folder.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return f"{pid} {folder.joinpath('exe').readlink()} in {folder.joinpath('cwd').readlink()}: {arguments}"
    except OSError as error:
        return f"{pid}: {error}"


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
