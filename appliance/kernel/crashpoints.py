"""Places where a test may kill the process, discovered by running and not listed by hand.

`reached(label)` stands beside each step that the outside can see: around commits, launcher calls and published
files. It does nothing unless the environment asks:

* `APPLIANCE_CRASH_TRACE=<file>`: append one line `<n> <label>` for each point that is reached;
* `APPLIANCE_CRASH_AT=<n>`: SIGKILL this process at the n-th point (1-based).
"""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

_trace = os.environ.get("APPLIANCE_CRASH_TRACE")
_crash_at = int(os.environ.get("APPLIANCE_CRASH_AT", "0"))
_armed = bool(_trace or _crash_at)
_counter = itertools.count(1)


def reached(label: str) -> None:
    if not _armed:
        return
    number = next(_counter)
    if _trace:
        with Path(_trace).open("a", encoding="utf-8") as file:
            file.write(f"{number} {label}\n")
    if number == _crash_at:
        os.kill(os.getpid(), signal.SIGKILL)
