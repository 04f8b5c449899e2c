"""An engine that leaves no trace of how it was started, as vLLM's processes do when they set their titles.

It forks a child, clears its own arguments and environment and has the child do the same, prints the child's pid and
sleeps. Run as `python tests/launchers/titled.py`.
"""

import ctypes
import os
import signal
from pathlib import Path

_ARG_START, _ENV_END = 45, 48
"""Of `/proc/<pid>/stat` behind the name: fields 48 (`arg_start`) and 51 (`env_end`), see proc_pid_stat(5)."""


def _forget() -> None:
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ENV_END])
    ctypes.memset(start, 0, end - start)


if __name__ == "__main__":
    told, tell = os.pipe()
    child = os.fork()
    _forget()
    if child == 0:
        os.write(tell, b"!")
        signal.pause()
    os.read(told, 1)
    os.write(1, f"{child}\n".encode())
    signal.pause()
