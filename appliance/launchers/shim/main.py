"""The life of a shim: detach, start the engine, acknowledge, supervise, record the end.

Files in the replica's folder: `spec.json` (read), `stop.json` (read on SIGTERM), `state.json` (written whole by
rename), `shim.lock` (flock held for as long as the shim lives). The acknowledgement is one JSON object on
standard output, then end of file.
"""

# Without pathlib, which would be a good part of the shim's start-up time.
# ruff: noqa: PTH105, PTH108, PTH123
from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress

from appliance.launchers import procfs
from appliance.launchers.shim import cgroups, engine
from appliance.launchers.shim.output import Output
from appliance.launchers.shim.supervisor import Signals, Supervisor

_STATE_FILE = "state.json"
_LAST_LINES = 20


def main(folder: str, lock: int) -> None:
    os.set_inheritable(lock, False)
    if os.fork() != 0:
        # The launcher waits for this process alone; the shim proper belongs to init.
        os._exit(0)
    os.chdir(folder)
    with open("spec.json", encoding="utf-8") as file:
        spec = json.load(file)
    os.umask(spec["umask"])
    signals = Signals()
    engine.adopt_orphans()
    state = State()
    state.write(phase="starting")
    groups = cgroups.make(f"appliance-{spec['replica_id']}", cgroups.Limits(**spec["limits"]))
    state.write(groups=groups.paths, enforced=groups.enforced)
    try:
        output = Output(spec["log_path"], limit_bytes=spec["log_limit_bytes"])
        reading, writing = os.pipe()
        pid = engine.spawn(spec["argv"], spec["env"], cwd=spec["cwd"], output=writing, groups=groups)
    except (OSError, engine.EngineRefused) as error:
        groups.remove()
        os.unlink(_STATE_FILE)
        _acknowledge({"refused": str(error)})
        return
    os.close(writing)
    os.set_blocking(reading, False)
    state.write(phase="running", started_at=time.time(), **_session(pid))
    _acknowledge({"pid": os.getpid(), "ticks": state.ticks})
    status = Supervisor(pid, output=output, pipe=reading, signals=signals, stop_file="stop.json").run()
    out_of_memory = groups.out_of_memory()
    groups.remove()
    state.write(phase="exited", exit=_exit(status, output.last_lines(_LAST_LINES), out_of_memory=out_of_memory))
    output.close()


def _session(engine_pid: int) -> dict[str, object]:
    """What names the engine's session once the engine is gone. It is not yet reaped, so that its pid is its own."""
    process = procfs.read_process(engine_pid)
    assert process is not None  # noqa: S101 - a child of ours
    group = procfs.autogroup(engine_pid)
    return {"engine_pid": engine_pid, "engine_ticks": process.ticks, "engine_group": group}


class State:
    """`state.json`: replaced by rename, so that a reader sees one whole version."""

    def __init__(self) -> None:
        process = procfs.read_process(os.getpid())
        assert process is not None  # noqa: S101 - this process
        self.ticks = process.ticks
        self._fields: dict[str, object] = {
            "shim_pid": process.pid,
            "shim_ticks": process.ticks,
            "boot_id": procfs.boot_id(),
        }

    def write(self, **changes: object) -> None:
        self._fields |= changes
        with open(f"{_STATE_FILE}.new", "w", encoding="utf-8", opener=_private) as file:
            json.dump(self._fields, file)
        os.replace(f"{_STATE_FILE}.new", _STATE_FILE)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _exit(status: int, last_lines: list[str], *, out_of_memory: bool) -> dict[str, object]:
    code = os.waitstatus_to_exitcode(status)
    return {
        "code": code if code >= 0 else None,
        "signal": -code if code < 0 else None,
        "out_of_memory": out_of_memory,
        "at": time.time(),
        "last_lines": last_lines,
    }


def _acknowledge(answer: dict[str, object]) -> None:
    with suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(answer))
        sys.stdout.flush()
    # The launcher may be gone; the engine stays. Standard error goes on into shim.log.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
