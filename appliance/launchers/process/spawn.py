"""Starting a shim and waiting for its first word, which comes once the engine's program runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.launchers import shim
from appliance.launchers.errors import LauncherUnavailable, StartRefused
from appliance.launchers.process.folder import ReplicaFolder

_SCRIPT = Path(shim.__file__).with_name("__main__.py")


class _Acknowledgement(Struct, frozen=True):
    pid: int = 0
    ticks: int = 0
    refused: str | None = None


def run_shim(folder: ReplicaFolder, lock: int, *, timeout_s: float) -> str:
    """The replica's handle. The shim gets the lock, a session of its own and nothing else of ours.

    Raises `StartRefused` when the engine's program cannot be run, and `LauncherUnavailable` when no answer comes.
    """
    errors = folder.shim_log()
    try:
        # A vfork, since no code of ours runs before exec: cheap however large this process is.
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
            [sys.executable, "-I", "-S", str(_SCRIPT), str(folder.path), str(lock)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=(lock,),
            start_new_session=True,
            env={"LANG": "C.UTF-8"},
            cwd="/",
        )
    finally:
        os.close(errors)
    with process:
        try:
            answer, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise LauncherUnavailable(f"The shim of replica {folder.replica_id} does not answer.") from None
    return _handle(folder, answer)


def _handle(folder: ReplicaFolder, answer: bytes) -> str:
    try:
        acknowledgement = msgspec.json.decode(answer, type=_Acknowledgement)
    except msgspec.DecodeError:
        raise LauncherUnavailable(
            f"The shim of replica {folder.replica_id} ended before it had started the engine.",
            shim_log=(folder.path / "shim.log").read_text(errors="replace")[-2000:],
        ) from None
    if acknowledgement.refused is not None:
        raise StartRefused(f"The engine's program cannot be run: {acknowledgement.refused}.")
    state = folder.state()
    if state is None:
        raise LauncherUnavailable(f"The state of replica {folder.replica_id} cannot be read.")
    return state.handle
