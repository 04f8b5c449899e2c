"""Places where a test may kill the process, discovered by running and not listed by hand.

`reached(step)` stands beside each step that the outside can see: around commits, launcher calls and published files.
A point is the step and the task that takes it (`commit.after@placed`), so that the same point is found again though
tasks interleave differently. It does nothing unless the environment asks:

* `APPLIANCE_CRASH_TRACE=<file>`: append one line for each point that is reached;
* `APPLIANCE_CRASH_AT=<point>#<n>`: SIGKILL this process the n-th time (1-based) that the point is reached;
* `APPLIANCE_CRASH_FILE=<file>`: the same, told by a file that may change while the process runs; each change begins
  to count anew, and nothing happens while the file is absent or empty. Of several lines the one that is reached first
  counts.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from pathlib import Path

_trace = os.environ.get("APPLIANCE_CRASH_TRACE")
_order_file = os.environ.get("APPLIANCE_CRASH_FILE")
_order = frozenset(os.environ.get("APPLIANCE_CRASH_AT", "").split())
_armed = bool(_trace or _order_file or _order)
_counts: Counter[str] = Counter()
_ANONYMOUS = re.compile(r"Task-\d+|starlette.*|.*RequestResponseCycle.*")


def reached(step: str) -> None:
    if not _armed:
        return
    _read_order()
    point = f"{step}@{_actor()}"
    _counts[point] += 1
    if _trace:
        with Path(_trace).open("a", encoding="utf-8") as file:
            file.write(f"{point}\n")
    if f"{point}#{_counts[point]}" in _order:
        os.kill(os.getpid(), signal.SIGKILL)


def _read_order() -> None:
    global _order  # noqa: PLW0603 - one process, one set of orders
    if not _order_file:
        return
    try:
        now = frozenset(Path(_order_file).read_text(encoding="utf-8").split())
    except FileNotFoundError:
        now = frozenset()
    if now != _order:
        _order = now
        _counts.clear()


def _actor() -> str:
    """The name of the running task without the id of what it works on; requests and start-up have no name."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return "thread"
    name = task.get_name() if task is not None else "loop"
    return "unnamed" if _ANONYMOUS.fullmatch(name) else re.split(r"[: ]", name)[0]
