"""The folder of one process replica: what was asked, what is, and who may change it.

`spec.json` is written by the launcher before the shim starts, `state.json` by the shim (and by a launcher that
finds the shim dead), `stop.json` by the launcher before it signals the shim. Whoever changes anything holds the
lock: the launcher takes it and hands it to the shim, which keeps it for life.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct, structs

from appliance.launchers.contract import ExitInfo
from appliance.launchers.paths import replica_dir

_SPEC = "spec.json"
_STATE = "state.json"
_STOP = "stop.json"
_LOCK = "shim.lock"

_Kind = TypeVar("_Kind")


class ShimLimits(Struct, frozen=True, kw_only=True):
    cpus: float | None
    memory_bytes: int | None
    pids: int | None


class ShimSpec(Struct, frozen=True, kw_only=True):
    """What the shim reads. `marker` is an entry of `env` that every process of the replica inherits."""

    replica_id: str
    labels: dict[str, str]
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    umask: int
    marker: str
    log_path: str
    log_limit_bytes: int
    limits: ShimLimits


class Phase(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    EXITED = "exited"


class ShimState(Struct, frozen=True, kw_only=True):
    """What the shim writes. A shim that has died since is known by pid, start ticks and boot; the session that its
    engine led, by the engine's pid, start ticks and group of the scheduler.
    """

    shim_pid: int
    shim_ticks: int
    boot_id: str
    phase: Phase
    engine_pid: int | None = None
    engine_ticks: int = 0
    engine_group: str = ""
    started_at: float = 0.0
    groups: tuple[str, ...] = ()
    enforced: tuple[str, ...] = ()
    exit: ExitInfo | None = None

    @property
    def handle(self) -> str:
        return f"{self.shim_pid}:{self.shim_ticks}:{self.boot_id}"


class ReplicaFolder:
    def __init__(self, root: Path, replica_id: str) -> None:
        self.replica_id = replica_id
        self.path = replica_dir(root, replica_id)

    def spec(self) -> ShimSpec | None:
        return _read(self.path / _SPEC, ShimSpec)

    def write_spec(self, spec: ShimSpec) -> None:
        self._write(_SPEC, spec)

    def state(self) -> ShimState | None:
        """None before the shim's first word, and where a power failure left no readable file."""
        return _read(self.path / _STATE, ShimState)

    def write_exit(self, state: ShimState, end: ExitInfo) -> ShimState:
        exited = structs.replace(state, phase=Phase.EXITED, exit=end)
        self._write(_STATE, exited)
        return exited

    def clear_state(self) -> None:
        (self.path / _STATE).unlink(missing_ok=True)

    def write_stop(self, grace_s: float) -> None:
        self._write(_STOP, {"grace_s": grace_s})

    def try_lock(self) -> int | None:
        """A descriptor that holds the lock, to be closed or handed on; None while another holds it."""
        descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def shim_log(self) -> int:
        """Where the shim's own standard error goes: empty unless the shim has a defect."""
        return os.open(self.path / "shim.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def remove(self) -> None:
        """The spec goes first: without it the folder is nobody's replica, wherever the removal is cut short."""
        (self.path / _SPEC).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)

    def _write(self, name: str, value: object) -> None:
        """By rename and without fsync: a power failure ends every process that the file speaks of."""
        fresh = self.path / f"{name}.{threading.get_native_id()}"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(value))
        fresh.replace(self.path / name)


def _read(path: Path, kind: type[_Kind]) -> _Kind | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
