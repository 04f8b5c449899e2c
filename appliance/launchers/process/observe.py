"""What is true of a process replica, and making it true again where its shim was killed.

A dead shim's engine was killed by the kernel (PR_SET_PDEATHSIG); processes that the engine had started are found
by the marker in their environment, by the engine's session (those of vLLM overwrite their environment) and by their
control groups, and killed before anyone is told `exited`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from appliance.launchers import procfs
from appliance.launchers.contract import LAST_LINES, ExitInfo, ObservedReplica, ReplicaState
from appliance.launchers.logfiles import read_lines
from appliance.launchers.process.folder import Phase, ReplicaFolder, ShimSpec, ShimState
from appliance.launchers.shim.cgroups import Groups

_KILL_TIMEOUT_S = 2.0


def is_alive(state: ShimState) -> bool:
    """Whether this very shim runs: same pid, same start, same boot."""
    return procfs.is_alive(state.shim_pid, state.shim_ticks) and state.boot_id == procfs.boot_id()


def observe(folder: ReplicaFolder) -> ObservedReplica | None:
    """None for a folder that is no replica's. Settles a replica whose shim was killed."""
    spec = folder.spec()
    if spec is None:
        return None
    state = folder.state()
    if state is not None and state.phase is not Phase.EXITED and not is_alive(state):
        # Read again: a shim writes its last word before it ends.
        state = folder.state()
        if state is not None and state.phase is not Phase.EXITED:
            state = _settle_locked(folder, spec)
    return _observation(spec, state)


def settle(folder: ReplicaFolder, spec: ShimSpec) -> ShimState | None:
    """For the holder of the lock, so that no shim lives: end what a killed shim left, and record it.

    Answers the state that holds then: None for a replica that never came up, `exited` otherwise. A state that is
    still `starting` or `running` means that a process cannot be killed.
    """
    state = folder.state()
    if state is not None and state.phase is Phase.EXITED:
        return state
    session = _session(state)
    if not procfs.kill_found(lambda: _left_by(spec, session), timeout_s=_KILL_TIMEOUT_S):
        return state
    if state is None:
        return None
    groups = Groups(list(state.groups), list(state.enforced))
    if not procfs.kill_found(groups.members, timeout_s=_KILL_TIMEOUT_S):
        return state
    out_of_memory = groups.out_of_memory()
    groups.remove()
    if state.phase is Phase.STARTING:
        folder.clear_state()
        return None
    return folder.write_exit(state, _lost(state, spec, out_of_memory=out_of_memory))


def _left_by(spec: ShimSpec, session: procfs.Session | None) -> list[int]:
    members = session.members() if session else []
    return list({*procfs.marked(spec.marker), *members})


def _session(state: ShimState | None) -> procfs.Session | None:
    """The session that the engine led; None where it never came up, or the machine has restarted since."""
    if state is None or state.engine_pid is None or not state.engine_ticks or state.boot_id != procfs.boot_id():
        return None
    return procfs.Session(state.engine_pid, state.engine_ticks, state.engine_group)


def _settle_locked(folder: ReplicaFolder, spec: ShimSpec) -> ShimState | None:
    lock = folder.try_lock()
    if lock is None:
        # Another call is at it.
        return folder.state()
    try:
        return settle(folder, spec)
    finally:
        os.close(lock)


def _lost(state: ShimState, spec: ShimSpec, *, out_of_memory: bool) -> ExitInfo:
    """The end of an engine whose shim cannot tell: SIGKILL by the kernel, or unknown when the machine restarted."""
    rebooted = state.boot_id != procfs.boot_id()
    return ExitInfo(
        code=None,
        signal=None if rebooted else 9,
        out_of_memory=out_of_memory,
        at=time.time(),
        last_lines=tuple(read_lines(Path(spec.log_path), tail=LAST_LINES)),
    )


def _observation(spec: ShimSpec, state: ShimState | None) -> ObservedReplica:
    match state and state.phase:
        case None:
            observed = ReplicaState.CREATED
        case Phase.EXITED:
            observed = ReplicaState.EXITED
        case _:
            observed = ReplicaState.RUNNING
    return ObservedReplica(
        replica_id=spec.replica_id,
        labels=spec.labels,
        state=observed,
        handle=state.handle if state else "",
        started_at=state.started_at if state else 0.0,
        exit=state.exit if state else None,
    )
