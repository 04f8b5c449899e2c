"""Where the files of the data plane are under `APPLIANCE_HOME`, and the lock that makes a worker the only one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def snapshot_directory(home: Path) -> Path:
    return home / "gateway" / "snapshot"


def spool_directory(home: Path, index: int) -> Path:
    return home / "gateway" / "spool" / f"worker-{index}"


def status_path(home: Path, index: int) -> Path:
    return home / "gateway" / "status" / f"worker-{index}"


def listeners_report_path(home: Path) -> Path:
    return home / "gateway" / "status" / "listeners.json"


def pid_path(home: Path, index: int) -> Path:
    return home / "run" / f"worker-{index}.pid"


def supervisor_pid_path(home: Path) -> Path:
    return home / "run" / "supervisor.pid"


def control_path(home: Path, index: int) -> Path:
    return home / "run" / f"worker-{index}.sock"


def metrics_path(home: Path, index: int) -> Path:
    return home / "run" / f"worker-{index}-metrics.sock"


def access_log_path(home: Path) -> Path:
    """Of all workers."""
    return home / "logs" / "gateway" / "access.log"


def capture_directory(home: Path, index: int) -> Path:
    return home / "gateway" / "capture" / f"worker-{index}"


def prepare(home: Path) -> None:
    for name in ("run", "gateway/snapshot", "gateway/spool", "gateway/status", "gateway/demand"):
        (home / name).mkdir(parents=True, exist_ok=True)


def worker_indexes(directory: Path, suffix: str = "") -> list[int]:
    """The numbers n for which `directory` has `worker-<n><suffix>`."""
    numbers = (path.name.removeprefix("worker-").removesuffix(suffix) for path in directory.glob(f"worker-*{suffix}"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def forget_worker(home: Path, index: int) -> None:
    """Remove what a worker that was killed has left beside its usage. Its lock must be held."""
    for path in (pid_path, control_path, metrics_path, status_path):
        path(home, index).unlink(missing_ok=True)


def take_worker_lock(home: Path, index: int) -> int | None:
    """A descriptor that holds the lock of worker `index`, None if another process has it.

    Who holds it knows that no other process uses this worker's slots, spool and sockets.
    """
    return take_lock(home / "run" / f"worker-{index}.lock")


def take_lock(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def short_path(path: Path) -> str:
    """A way to a unix socket that fits its 107 bytes however deep `APPLIANCE_HOME` is: through a descriptor of the
    folder, which is kept for the process's life.
    """
    text = str(path)
    if len(os.fsencode(text)) <= _MAX_SOCKET_PATH:
        return text
    if path.parent not in _folders:
        _folders[path.parent] = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{_folders[path.parent]}/{path.name}"


_MAX_SOCKET_PATH = 107
_folders: dict[Path, int] = {}
