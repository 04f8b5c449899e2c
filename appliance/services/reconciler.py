"""Makes the replicas what the deployments desire: level-triggered, no input, one idempotent path.

A round: see what the launcher has, load what the database wants, note what died, apply the planner's changes, place
what waits, and see that each replica's job runs. The world is observed *before* the database is read: a replica
whose row is read later was at least intended when it was observed, so nothing that starts meanwhile is an orphan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import select

from appliance.kernel.errors import Unavailable
from appliance.kernel.logging import get_logger
from appliance.launchers.contract import ExitInfo, ObservedReplica
from appliance.launchers.contract import ReplicaState as Process
from appliance.services import converge, failing, leaving, placing, preempting
from appliance.services.containment import contained
from appliance.services.facts import World, load
from appliance.services.jobs import Jobs
from appliance.services.machinery import Machinery
from appliance.services.planner import plan, summarise
from appliance.services.states import SERVING, ReplicaState
from appliance.services.tables import ReplicaRow

log = get_logger(__name__)
_RUNS = SERVING | {ReplicaState.starting}


class Round(msgspec.Struct, frozen=True):
    """What a round saw and did."""

    services: int
    replicas: int
    changes: int
    jobs: int
    orphans: int
    launcher: str


class ServiceReconciler:
    name = "services"
    period_s = 1.0

    def __init__(self, machinery: Machinery) -> None:
        self._machinery = machinery
        self._jobs = Jobs(machinery)
        self._orphans: set[asyncio.Task[None]] = set()

    async def reconcile(self) -> Round:
        observed_at = self._machinery.clock.now()
        observed = await self._observe()
        world = await self._load()
        orphans = 0
        if observed is not None:
            await self._note_deaths(world, observed, observed_at)
            orphans = await self._remove_orphans(world, observed, observed_at)
        await self._note_overdue(world)
        changes = await self._converge(world)
        world = await self._load() if changes else world
        waiting = [row for row in world.replicas.values() if row.state == ReplicaState.pending]
        if waiting and await self._place(waiting):
            world = await self._load()
        for row in world.replicas.values():
            self._jobs.ensure(row.id, ReplicaState(row.state))
        launcher = "unreachable" if observed is None else "reachable"
        return Round(len(world.services), len(world.replicas), changes, self._jobs.busy(), orphans, launcher)

    async def _place(self, waiting: Sequence[ReplicaRow]) -> bool:
        """What goes wrong with what waits holds up nothing of what runs."""
        changed = False
        with contained(step="placing"):
            await preempting.end_reservations(self._machinery)
            changed = await placing.place_waiting(self._machinery, waiting)
        return changed  # noqa: RET504 - also after an error

    async def close(self) -> None:
        await self._jobs.close()
        for task in self._orphans:
            task.cancel()
        await asyncio.gather(*self._orphans, return_exceptions=True)

    async def _observe(self) -> Mapping[str, ObservedReplica] | None:
        """What runs, or None where the launcher cannot tell: unreachable is not gone."""
        try:
            return {replica.replica_id: replica for replica in await self._machinery.launcher.list()}
        except Unavailable as error:
            log.warning("launcher.unreachable", reason=error.detail)
            return None

    async def _load(self) -> World:
        async with self._machinery.guarded.read() as session:
            return await load(session, self._machinery.clock.now())

    async def _note_deaths(self, world: World, observed: Mapping[str, ObservedReplica], observed_at: datetime) -> None:
        for row in list(world.replicas.values()):
            if row.state not in _RUNS or row.started_at is None or row.started_at >= observed_at:
                continue
            seen = observed.get(row.id)
            if seen is not None and seen.state is not Process.EXITED:
                continue
            exit_info = seen.exit if seen else None
            await self._fail(row, failing.explain_exit(exit_info), exit_info=exit_info)

    async def _note_overdue(self, world: World) -> None:
        """Late starts failed and late drains are over; what cannot end by itself is told and gets more time (I13)."""
        now = self._machinery.clock.now()
        for row in list(world.replicas.values()):
            if row.deadline_at is None or row.deadline_at > now:
                continue
            if row.state in (ReplicaState.placed, ReplicaState.starting):
                seconds = (now - (row.started_at or row.created_at)).total_seconds()
                await self._fail(row, f"the engine was not ready after {seconds:.0f} s (still {row.state})")
            elif row.state == ReplicaState.draining:
                with contained(replica=row.id):
                    await leaving.end_drain(self._machinery, row.id)
            elif row.state in leaving.POSTPONED:
                with contained(replica=row.id):
                    await leaving.postpone(self._machinery, row.id, ReplicaState(row.state))

    async def _fail(self, row: ReplicaRow, reason: str, *, exit_info: ExitInfo | None = None) -> None:
        with contained(replica=row.id):
            await failing.fail(self._machinery, row.id, ReplicaState(row.state), reason, exit_info=exit_info)
            log.warning("replica.failed", replica=row.id, service=row.service_id, reason=reason)
            row.state, row.deadline_at = ReplicaState.stopping.value, None

    async def _remove_orphans(
        self, world: World, observed: Mapping[str, ObservedReplica], observed_at: datetime
    ) -> int:
        orphans = await self._unowned([id_ for id_ in observed if id_ not in world.replicas], observed_at)
        busy = {task.get_name() for task in self._orphans}
        for replica_id in orphans:
            if replica_id in busy:
                continue
            log.warning("orphan.found", replica=replica_id)
            task = asyncio.create_task(self._remove_orphan(replica_id), name=replica_id)
            self._orphans.add(task)
            task.add_done_callback(self._orphans.discard)
        return len(orphans)

    async def _unowned(self, replica_ids: Sequence[str], observed_at: datetime) -> Sequence[str]:
        """Those that did not just end in order, after they had been observed."""
        if not replica_ids:
            return []
        ended = select(ReplicaRow.id).where(ReplicaRow.id.in_(replica_ids), ReplicaRow.ended_at >= observed_at)
        async with self._machinery.guarded.read() as session:
            in_order = set((await session.scalars(ended)).all())
        return [replica_id for replica_id in replica_ids if replica_id not in in_order]

    async def _remove_orphan(self, replica_id: str) -> None:
        try:
            await self._machinery.launcher.stop(replica_id, grace_s=self._machinery.timing.stop_grace_s)
            await self._machinery.launcher.remove(replica_id)
        except Unavailable as error:
            log.warning("orphan.waited", replica=replica_id, reason=error.detail)
            return
        log.info("orphan.removed", replica=replica_id)

    async def _converge(self, world: World) -> int:
        now = self._machinery.clock.now()
        changed = 0
        for service in world.services:
            changes = plan(service, now)
            shown = summarise(service)
            if not changes and (shown.state, shown.reason) == world.shown[service.id]:
                continue
            changed += len(changes)
            with contained(service=service.id):
                async with self._machinery.guarded.write() as session:
                    timing = self._machinery.timing
                    await converge.apply(session, self._machinery.clock, service, changes, shown, timing)
        return changed
