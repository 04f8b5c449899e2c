"""The launcher of process replicas: thin over the folder of each; the shim does the work."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from appliance.kernel.crashpoints import reached
from appliance.launchers import logfiles, procfs
from appliance.launchers.contract import (
    APPLIANCE_LABEL,
    EngineLayout,
    ObservedReplica,
    ReplicaSpec,
    ReplicaState,
    Stats,
)
from appliance.launchers.devices import process_environment
from appliance.launchers.errors import LauncherUnavailable, ReplicaRunning, ReplicaUnknown, StartRefused, StopIncomplete
from appliance.launchers.paths import check_spec, host_socket, make_cache_dir, make_run_dir
from appliance.launchers.process.folder import Phase, ReplicaFolder, ShimLimits, ShimSpec, ShimState
from appliance.launchers.process.observe import is_alive, observe, settle
from appliance.launchers.process.spawn import run_shim

MARKER = "APPLIANCE_REPLICA"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HANDSHAKE_S = 10.0
_LOCK_POLL_S = 0.005
_SETTLING_PAUSE_S = 0.02


class ProcessSettings(Struct, frozen=True, kw_only=True):
    """`gid` (-1: our own) is the group that may connect to the engines' sockets: the gateway's.

    A log has two files of at most `log_bytes` each. `kill_margin_s` is what a shim may need beyond the grace, for
    killed processes to die, before it is taken to hang.
    """

    gid: int = -1
    umask: int = 0o007
    log_bytes: int = 16 * 1024 * 1024
    kill_margin_s: float = 10.0


class ProcessLauncher:
    """`root` is the folder of all replicas' folders. Any number of instances may work on the same root."""

    name = "process"
    isolates = False
    images = None

    def __init__(self, appliance_id: str, *, root: Path, settings: ProcessSettings | None = None) -> None:
        self._appliance_id = appliance_id
        self._root = root
        self._settings = settings or ProcessSettings()

    def layout(self, *, run_dir: Path, model_dir: Path | None, cache_dir: Path | None) -> EngineLayout:
        return EngineLayout(socket=host_socket(run_dir), model=model_dir, cache=cache_dir)

    async def start(self, spec: ReplicaSpec) -> str:
        check_spec(spec, appliance_id=self._appliance_id, root=self._root)
        if spec.image is not None:
            raise StartRefused("The process launcher runs no images; use the Docker launcher.")
        return await asyncio.to_thread(self._start, spec)

    async def list(self) -> Sequence[ObservedReplica]:
        return await asyncio.to_thread(self._list)

    async def stop(self, replica_id: str, *, grace_s: float) -> None:
        folder = self._folder(replica_id)
        shim = await asyncio.to_thread(self._request_stop, folder, grace_s)
        if shim is not None:
            try:
                if not await _ended(shim, grace_s + self._settings.kill_margin_s):
                    # The shim itself hangs. The kernel kills its engine with it, and the rest is settled below.
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(shim, signal.SIGKILL)
                    await _ended(shim, self._settings.kill_margin_s)
            finally:
                os.close(shim)
        observed = await self._settled(folder)
        if observed is not None and observed.state is ReplicaState.RUNNING:
            raise StopIncomplete(f"Processes of replica {replica_id} were killed and are still there.")
        reached("launcher.process.stopped")

    async def _settled(self, folder: ReplicaFolder) -> ObservedReplica | None:
        """What is there once the killed are gone: a process may be seen for a moment after its kill."""
        deadline = time.monotonic() + self._settings.kill_margin_s
        while True:
            observed = await asyncio.to_thread(observe, folder)
            if observed is None or observed.state is not ReplicaState.RUNNING or time.monotonic() > deadline:
                return observed
            await asyncio.sleep(_SETTLING_PAUSE_S)

    async def remove(self, replica_id: str) -> None:
        await asyncio.to_thread(self._remove, self._folder(replica_id))

    async def logs(self, replica_id: str, *, tail: int | None = None) -> Sequence[str]:
        path = await asyncio.to_thread(self._log_path, replica_id)
        return await asyncio.to_thread(logfiles.read_lines, path, tail=tail)

    async def follow(self, replica_id: str) -> AsyncIterator[str]:
        path = await asyncio.to_thread(self._log_path, replica_id)
        folder = self._folder(replica_id)
        async for line in logfiles.follow(path, is_running=lambda: _running(folder.state())):
            yield line

    async def stats(self, replica_id: str) -> Stats:
        return await asyncio.to_thread(self._stats, replica_id)

    async def close(self) -> None:
        """There is nothing to release."""

    def _folder(self, replica_id: str) -> ReplicaFolder:
        return ReplicaFolder(self._root, replica_id)

    def _start(self, spec: ReplicaSpec) -> str:
        folder = self._folder(spec.replica_id)
        make_run_dir(folder.path, gid=self._settings.gid)
        if spec.cache_dir is not None:
            make_cache_dir(spec.cache_dir)
        spec.log_path.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder, unless=lambda state: state.phase is not Phase.STARTING)
        if isinstance(lock, ShimState):
            return lock.handle
        try:
            return self._start_locked(folder, spec, lock)
        finally:
            os.close(lock)

    def _start_locked(self, folder: ReplicaFolder, spec: ReplicaSpec, lock: int) -> str:
        previous = folder.spec()
        if previous is not None:
            state = settle(folder, previous)
            if state is not None and state.phase is not Phase.EXITED:
                raise LauncherUnavailable(f"An earlier process of replica {spec.replica_id} cannot be killed.")
            if state is not None:
                return state.handle
        folder.write_spec(self._shim_spec(spec))
        host_socket(folder.path).unlink(missing_ok=True)
        reached("launcher.process.prepared")
        try:
            handle = run_shim(folder, lock, timeout_s=_HANDSHAKE_S)
        except StartRefused:
            folder.remove()
            raise
        reached("launcher.process.started")
        return handle

    def _shim_spec(self, spec: ReplicaSpec) -> ShimSpec:
        home = str(spec.cache_dir or spec.run_dir)
        own = {MARKER: spec.replica_id}
        return ShimSpec(
            replica_id=spec.replica_id,
            labels=dict(spec.labels),
            argv=spec.argv,
            env={
                "PATH": _PATH,
                "HOME": home,
                "LANG": "C.UTF-8",
                **spec.env,
                **process_environment(spec.devices),
                **own,
            },
            cwd=home,
            umask=self._settings.umask,
            marker=f"{MARKER}={spec.replica_id}",
            log_path=str(spec.log_path),
            log_limit_bytes=self._settings.log_bytes,
            limits=ShimLimits(cpus=spec.limits.cpus, memory_bytes=spec.limits.memory_bytes, pids=spec.limits.pids),
        )

    def _list(self) -> Sequence[ObservedReplica]:
        try:
            names = sorted(entry.name for entry in os.scandir(self._root) if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []
        observed = (observe(self._folder(name)) for name in names)
        return [one for one in observed if one and one.labels.get(APPLIANCE_LABEL) == self._appliance_id]

    def _request_stop(self, folder: ReplicaFolder, grace_s: float) -> int | None:
        """Tell a living shim to end its engine; a descriptor of the shim, or None when there is none."""
        state = folder.state()
        if not _running(state):
            return None
        assert state is not None  # noqa: S101 - `_running` said so
        shim = procfs.open_process(state.shim_pid, state.shim_ticks)
        if shim is not None:
            folder.write_stop(grace_s)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(shim, signal.SIGTERM)
            reached("launcher.process.stop_requested")
        return shim

    def _remove(self, folder: ReplicaFolder) -> None:
        observed = observe(folder)
        if observed is not None and observed.state is ReplicaState.RUNNING:
            raise ReplicaRunning(f"Replica {folder.replica_id} runs.")
        if not folder.path.is_dir():
            return
        lock = _lock(folder, unless=lambda state: state.phase is Phase.RUNNING)
        if isinstance(lock, ShimState):
            raise ReplicaRunning(f"Replica {folder.replica_id} runs.")
        try:
            folder.remove()
        finally:
            os.close(lock)

    def _log_path(self, replica_id: str) -> Path:
        return Path(self._known(replica_id).log_path)

    def _known(self, replica_id: str) -> ShimSpec:
        spec = self._folder(replica_id).spec()
        if spec is None:
            raise ReplicaUnknown(f"There is no replica {replica_id}.")
        return spec

    def _stats(self, replica_id: str) -> Stats:
        self._known(replica_id)
        state = self._folder(replica_id).state()
        if not _running(state):
            return Stats(cpu_seconds=0.0, memory_bytes=0, pids=0)
        assert state is not None  # noqa: S101 - `_running` said so
        below = procfs.descendants(state.shim_pid)
        found = [process for pid in (state.shim_pid, *below) if (process := procfs.read_process(pid))]
        return Stats(
            cpu_seconds=sum(process.cpu_ticks for process in found) / procfs.TICKS_PER_SECOND,
            memory_bytes=sum(map(procfs.resident_bytes, below)),
            pids=len(below),
        )


def _running(state: ShimState | None) -> bool:
    return state is not None and state.phase is not Phase.EXITED and is_alive(state)


def _lock(folder: ReplicaFolder, *, unless: Callable[[ShimState], bool]) -> int | ShimState:
    """The lock, or a state for which it is not worth waiting.

    Who else has it: a living shim, for one moment longer than it says `exited`; another call that starts, settles
    or removes the replica.
    """
    deadline = time.monotonic() + _HANDSHAKE_S
    while True:
        lock = folder.try_lock()
        if lock is not None:
            return lock
        state = folder.state()
        if state is not None and unless(state):
            return state
        if time.monotonic() > deadline:
            raise LauncherUnavailable(f"Another call for replica {folder.replica_id} does not come to an end.")
        time.sleep(_LOCK_POLL_S)


async def _ended(process: int, timeout_s: float) -> bool:
    """Wait for the process behind a pidfd; whether it ended in time."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(process, ended.set)
    try:
        async with asyncio.timeout(timeout_s):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(process)
    return True
