"""One task for each replica that needs something: what it does follows from the replica's state.

A job ends when it moved its replica on, or when it could not; either way the next round starts the job that the
state then asks for. It begins by looking whether the state still is: a round that read its rows before another job
of the replica ended would otherwise have, say, an engine probed once more than is counted. A job never holds a
session across a side effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from sqlalchemy import select

from appliance.kernel.errors import Unavailable
from appliance.kernel.logging import get_logger
from appliance.services import joining, launching, leaving, readiness
from appliance.services.machinery import Machinery
from appliance.services.states import ReplicaState
from appliance.services.tables import ReplicaRow
from appliance.services.transitions import Overtaken

log = get_logger(__name__)
_PAUSE_AFTER_TROUBLE_S = 1.0

Job = Callable[[Machinery, str], Awaitable[None]]
JOBS: Final[dict[ReplicaState, Job]] = {
    ReplicaState.placed: launching.launch,
    ReplicaState.starting: readiness.become_ready,
    ReplicaState.joining: joining.join,
    ReplicaState.ready: readiness.stay_ready,
    ReplicaState.draining: leaving.drain,
    ReplicaState.stopping: leaving.stop,
}


class Jobs:
    def __init__(self, machinery: Machinery) -> None:
        self._machinery = machinery
        self._tasks: dict[str, tuple[ReplicaState, asyncio.Task[None]]] = {}

    def ensure(self, replica_id: str, state: ReplicaState) -> None:
        """Have the job of `state` running for the replica; one of another state is cancelled.

        A launch is never cancelled: its thread would go on and start what nobody waits for. It ends by itself, and
        the round after it starts the job that the state then asks for.
        """
        if state not in JOBS:
            return
        running = self._tasks.get(replica_id)
        if running is not None:
            if running[0] in (state, ReplicaState.placed):
                return
            running[1].cancel()
        task = asyncio.create_task(self._run(replica_id, state), name=f"{state}:{replica_id}")
        self._tasks[replica_id] = (state, task)

    def busy(self) -> int:
        return len(self._tasks)

    async def close(self) -> None:
        """End every job, launches by waiting for them (see `ensure`); the replicas stay as they are.

        What prepares a launch, which may take long, gives up by itself.
        """
        self._machinery.ending.set()
        running = list(self._tasks.values())
        for state, task in running:
            if state is not ReplicaState.placed:
                task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)

    async def _run(self, replica_id: str, state: ReplicaState) -> None:
        try:
            await self._look(replica_id, state)
            await JOBS[state](self._machinery, replica_id)
        except Overtaken:
            log.info("replica.overtaken", replica=replica_id, state=state.value)
        except Unavailable as error:
            log.warning("replica.waited", replica=replica_id, state=state.value, reason=error.detail)
            await asyncio.sleep(_PAUSE_AFTER_TROUBLE_S)
        except Exception:  # the boundary of a background task: logged here, tried again by the next round
            log.exception("replica.job_failed", replica=replica_id, state=state.value)
            await asyncio.sleep(_PAUSE_AFTER_TROUBLE_S)
        finally:
            if self._tasks.get(replica_id, (None, None))[1] is asyncio.current_task():
                del self._tasks[replica_id]
                self._machinery.wake()

    async def _look(self, replica_id: str, state: ReplicaState) -> None:
        async with self._machinery.guarded.read() as session:
            found = await session.scalar(select(ReplicaRow.state).where(ReplicaRow.id == replica_id))
        if found != state:
            raise Overtaken(f"{replica_id} is {found} by now")
