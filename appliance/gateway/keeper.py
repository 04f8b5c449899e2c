"""The gateway's process: a supervisor runs, detached, so that it outlives the control plane.

There are never two: the supervisor takes a lock of its own and a second one ends at once. What it inherits is
listed: neither the database's address nor any other secret of the control plane's environment is among it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Final

import msgspec

import appliance
from appliance.gateway import processes
from appliance.gateway.processes import PlaneProcess
from appliance.gateway.user import GatewayUser
from appliance.kernel.crashpoints import reached
from appliance.kernel.logging import get_logger

LARGEST_LOG: Final = 16 * 1024 * 1024

_KILLED_S: Final = 5.0
"""How long a killed process may take to be gone; longer only in an uninterruptible call."""

_INHERITED: Final = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH"})
_INHERITED_PREFIX: Final = "APPLIANCE_TEST_"

log = get_logger(__name__)


class KeeperStatus(msgspec.Struct, frozen=True):
    """`pid` is None between a start and the supervisor's own word, and after `stop`."""

    pid: int | None
    starts: int
    last_exit: int | None


class GatewayKeeper:
    """`home` is APPLIANCE_HOME; `drain_s` is what workers get to finish requests in when the supervisor stops;
    `largest_log` is in bytes, and one older log of that size is kept; `user` is None for the control plane's own.
    """

    name = "gateway-process"
    period_s = 2.0

    def __init__(
        self, home: Path, *, drain_s: float, user: GatewayUser | None = None, largest_log: int = LARGEST_LOG
    ) -> None:
        self._home = home.resolve()
        self._user = user
        self._drain_s, self._largest_log = drain_s, largest_log
        self._log = self._home / "logs" / "gateway" / "supervisor.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._last_exit: int | None = None
        self._is_stopped = False

    async def reconcile(self) -> KeeperStatus:
        """Start the supervisor unless it runs or is just being started. After `stop` nothing is started."""
        self._reap()
        pid = self._pid()
        if pid is None and self._child is None and not self._is_stopped:
            self._start()
        self._bound_log()
        return KeeperStatus(pid, self._starts, self._last_exit)

    async def stop(self, grace_s: float) -> None:
        """Stop the supervisor and with it the workers: SIGTERM, at most `grace_s` seconds, then SIGKILL.

        Workers whose supervisor was killed are ended the same way. What was in flight when a worker was killed is
        billed when its successor starts.
        """
        self._is_stopped = True
        supervisor = self._supervisor()
        asked = [supervisor] if supervisor is not None else processes.workers(self._home)
        await processes.end(asked, signal.SIGTERM, grace_s)
        # The supervisor first: it would start killed workers again.
        supervisor = self._supervisor()
        if supervisor is not None:
            log.error("gateway.supervisor_killed", supervisor_pid=supervisor.pid, grace_s=grace_s)
            await processes.end([supervisor], signal.SIGKILL, _KILLED_S)
        await processes.end(processes.workers(self._home), signal.SIGKILL, _KILLED_S)
        self._reap()

    def _supervisor(self) -> PlaneProcess | None:
        """The one that runs; also one of ours that has not written its pid file yet."""
        found = processes.supervisor(self._home)
        if found is None and self._child is not None and self._child.poll() is None:
            return PlaneProcess.hold(self._child.pid)  # not reaped yet, so the pid is still its own
        return found

    def _pid(self) -> int | None:
        found = processes.supervisor(self._home)
        if found is None:
            return None
        found.close()
        return found.pid

    def _reap(self) -> None:
        if self._child is None or self._child.poll() is None:
            return
        self._last_exit, self._child = self._child.returncode, None
        if not self._is_stopped:
            log.error("gateway.supervisor_ended", status=self._last_exit, log=str(self._log))

    def _start(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", processes.SUPERVISOR, "--home", str(self._home)]
        command += ["--grace", f"{self._drain_s:g}"]
        with _open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as output:
            self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command,
                cwd=Path(appliance.__file__).parents[1],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=self._user.uid if self._user else None,
                group=self._user.gid if self._user else None,
                extra_groups=[] if self._user else None,
            )
        self._starts += 1
        reached("gateway.supervisor_started")
        log.info("gateway.supervisor_started", supervisor_pid=self._child.pid)

    def _bound_log(self) -> None:
        """Copy and truncate: its writers append through descriptors that they keep open."""
        try:
            with _open(self._log, os.O_RDWR) as log_file:
                if os.fstat(log_file.fileno()).st_size <= self._largest_log:
                    return
                older = self._log.with_suffix(".log.1")
                older.unlink(missing_ok=True)
                with _open(older, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as copy:
                    shutil.copyfileobj(log_file, copy)
                log_file.truncate(0)
        except FileNotFoundError:
            return


def _open(path: Path, flags: int) -> IO[bytes]:
    """A file in a folder that the gateway's user may write to: no link is followed."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    return os.fdopen(descriptor, "rb+" if flags & os.O_RDWR else "wb", buffering=0)


def _environment() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIX)
    }
