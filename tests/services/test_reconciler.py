"""Rounds of the services' reconciler on real databases: what is desired comes true, whatever goes wrong meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import update

from appliance.kernel.errors import Unavailable
from appliance.services import shutdown
from appliance.services.jobs import JOBS, Jobs
from appliance.services.lifecycle import start_service, stop_service
from appliance.services.reconciler import ServiceReconciler
from appliance.services.states import Desired, ReplicaState, ServiceState
from appliance.services.tables import DeploymentRow
from tests.services.stage import Stage
from tests.support.waiting import eventually_async


async def test_a_service_becomes_ready_and_is_forgotten_once_deleted(stage: Stage) -> None:
    service_id = await stage.create(replicas=2)
    await stage.until(service_id, ServiceState.ready)
    replicas = await stage.replicas(service_id, ReplicaState.ready)
    assert stage.launcher.running == await stage.leased() == {row.id for row in replicas}
    await stage.delete(service_id)
    await stage.until_forgotten(service_id)
    assert not stage.launcher.running
    assert not await stage.leased()


async def test_an_engine_that_dies_is_replaced_after_a_pause(stage: Stage) -> None:
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    stage.clock.advance(1)
    [first] = await stage.replicas(service_id)
    await stage.launcher.die(first.id, "Killed")
    row = await stage.until(service_id, ServiceState.failed)
    assert row.reason == "the engine exited with code 1: Killed"
    stage.clock.advance(1)
    await stage.until(service_id, ServiceState.ready)
    assert [replica.state for replica in await stage.replicas(service_id)] == ["failed", "ready"]


async def test_an_engine_whose_end_its_probes_meet_first_has_not_hung(stage: Stage) -> None:
    """No round looks; the replica's own job finds that there is no token."""
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    [first] = await stage.replicas(service_id)
    await stage.launcher.die(first.id, "Killed")

    async def reason() -> str | None:
        [replica] = await stage.replicas(service_id)
        return replica.reason

    assert (
        await eventually_async(reason, message="the job fails the replica") == "the engine exited with code 1: Killed"
    )


async def test_what_an_engine_says_last_stops_nobody(stage: Stage) -> None:
    """PostgreSQL stores no NUL character; a novel is no reason."""
    noisy, quiet = await stage.create("noisy"), await stage.create("quiet", replicas=0)
    await stage.until(noisy, ServiceState.ready)
    stage.clock.advance(1)
    [replica] = await stage.replicas(noisy)
    await stage.launcher.die(replica.id, "\0" + "x" * 10_000)
    row = await stage.until(noisy, ServiceState.failed)
    assert len(row.reason) < 1000
    await stage.scale(quiet, 1)
    await stage.until(quiet, ServiceState.ready)


async def test_a_runtime_that_is_gone_stops_only_its_services(stage: Stage) -> None:
    orphaned, other = await stage.create("orphaned"), await stage.create("other")
    async with stage.database.write() as session:
        await session.execute(
            update(DeploymentRow).where(DeploymentRow.service_id == orphaned).values(runtime="removed")
        )
    await stage.until(other, ServiceState.ready)
    assert "no runtime 'removed'" in (await stage.until(orphaned, ServiceState.pending)).reason


async def test_a_stop_that_comes_while_a_round_runs_is_not_undone(stage: Stage) -> None:
    service_id = await stage.create()
    world = await stage.reconciler._load()
    async with stage.service_work(service_id) as (work, row):
        await stop_service(work, row)
    await stage.reconciler._converge(world)
    assert not await stage.replicas(service_id)
    assert (await stage.service(service_id)).state == ServiceState.stopping


async def test_what_a_round_saw_is_not_shown_over_a_newer_desire(stage: Stage) -> None:
    """The request commits between the round's reading of the row and its writing: nothing may be lost."""
    service_id = await stage.create(replicas=0)
    await stage.until(service_id, ServiceState.ready)
    async with stage.service_work(service_id) as (work, row):
        await stop_service(work, row)
    async with stage.service_work(service_id) as (work, row):
        await start_service(work, row, stage.launcher)
        round_ = asyncio.create_task(stage.round())
        await asyncio.wait({round_}, timeout=0.5)  # on PostgreSQL it has come as far as the row's lock
    await round_
    assert (await stage.service(service_id)).state != ServiceState.stopped
    assert (await stage.until(service_id, ServiceState.ready)).desired == Desired.running


@pytest.mark.parametrize("state", sorted(JOBS.keys() - {ReplicaState.ready}))
async def test_a_job_for_a_state_that_is_over_touches_nothing(stage: Stage, state: ReplicaState) -> None:
    """A round may have read its rows before the replica's last job ended; its engine is not asked for a token again."""
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    await stage.reconciler.close()
    [before] = await stage.replicas(service_id)
    answered = stage.launcher.answered(before.id)
    jobs = Jobs(stage.machinery)
    jobs.ensure(before.id, state)

    async def has_ended() -> bool:
        return jobs.busy() == 0

    await eventually_async(has_ended)
    [after] = await stage.replicas(service_id)
    assert (after.state, after.probe_completion_tokens) == ("ready", before.probe_completion_tokens)
    assert stage.launcher.answered(before.id) == answered > 0
    assert stage.launcher.running == {before.id}


async def test_a_launch_is_waited_for_when_the_appliance_stops(stage: Stage) -> None:
    """Its thread cannot be stopped: an engine that comes up behind the shutdown would run on without a lease."""
    service_id = await stage.create()
    stage.launcher.may_start.clear()
    await stage.until_starting(service_id)
    closing = asyncio.create_task(stage.reconciler.close())
    await asyncio.wait({closing}, timeout=0.2)
    assert not closing.done()
    stage.launcher.may_start.set()
    await closing
    await shutdown.stop_all(stage.machinery, grace_s=1)
    await stage.launcher.settled()
    assert not stage.launcher.running
    assert not await stage.leased()


async def test_after_a_shutdown_nothing_is_shown_as_ready(stage: Stage) -> None:
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    await stage.reconciler.close()
    await shutdown.stop_all(stage.machinery, grace_s=1)
    assert (await stage.service(service_id)).state == ServiceState.pending


async def test_old_failures_are_forgiven_once_all_replicas_have_served_for_a_while(stage: Stage) -> None:
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    stage.clock.advance(1)
    [first] = await stage.replicas(service_id)
    await stage.launcher.die(first.id)
    await stage.until(service_id, ServiceState.failed)
    stage.clock.advance(1)
    await stage.until(service_id, ServiceState.ready)
    assert (await stage.deployment(service_id)).failures == 1
    stage.clock.advance(60)
    await stage.round()
    assert (await stage.deployment(service_id)).failures == 0


async def test_a_drain_ends_though_no_snapshot_can_be_written(stage: Stage) -> None:
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    stage.publisher.trouble = Unavailable("the disk is full")
    await stage.delete(service_id)
    await stage.round()
    assert await stage.replicas(service_id, ReplicaState.draining)
    stage.clock.advance(31)
    await stage.until_forgotten(service_id)


async def test_joining_that_cannot_be_published_is_told_and_goes_on(stage: Stage) -> None:
    service_id = await stage.create()
    stage.publisher.trouble = Unavailable("the disk is full")

    async def joining() -> bool:
        await stage.round()
        return bool(await stage.replicas(service_id, ReplicaState.joining))

    await eventually_async(joining)
    stage.clock.advance(11)
    await stage.round()
    [replica] = await stage.replicas(service_id)
    assert replica.deadline_at is not None
    assert replica.deadline_at > stage.clock.now()
    stage.publisher.trouble = None
    await stage.until(service_id, ServiceState.ready)


async def test_an_unreachable_launcher_ends_nothing(stage: Stage) -> None:
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    stage.launcher.is_reachable = False
    stage.clock.advance(5)
    await stage.round()
    assert (await stage.service(service_id)).state == ServiceState.ready
    stage.launcher.is_reachable = True
    await stage.round()
    assert len(await stage.replicas(service_id, ReplicaState.ready)) == 1


async def test_another_control_plane_adopts_what_runs(stage: Stage) -> None:
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    await stage.reconciler.close()
    stage.reconciler = ServiceReconciler(stage.machinery)
    stage.clock.advance(1)
    await stage.round()
    await stage.round()
    [replica] = await stage.replicas(service_id)
    assert (replica.state, stage.launcher.running) == (ReplicaState.ready, {replica.id})


async def test_what_no_row_owns_is_removed(stage: Stage) -> None:
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    [replica] = await stage.replicas(service_id)
    await stage.reconciler.close()
    async with stage.database.write() as session:
        await session.execute(
            update(type(replica)).where(type(replica).id == replica.id).values(state=ReplicaState.stopped.value)
        )

    async def gone() -> bool:
        await stage.round()
        return replica.id not in stage.launcher.running

    await eventually_async(gone)


async def test_what_ends_while_a_round_looks_is_no_orphan(stage: Stage) -> None:
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    observed_at, observed = stage.clock.now(), await stage.reconciler._observe()
    assert observed is not None
    await stage.scale(service_id, 0)
    await eventually_async(lambda: _ended(stage, service_id))
    assert await stage.reconciler._remove_orphans(await stage.reconciler._load(), observed, observed_at) == 0


async def _ended(stage: Stage, service_id: str) -> bool:
    await stage.round()
    return bool(await stage.replicas(service_id, ReplicaState.stopped))


async def test_replicas_without_a_place_wait_with_the_reason_and_are_placed_when_there_is_room(stage: Stage) -> None:
    first, second = await stage.create("first", flavor="gpu", replicas=2), await stage.create("second", flavor="gpu")
    await stage.until(first, ServiceState.ready)
    row = await stage.until(second, ServiceState.pending)
    assert row.reason == "pool default has no free device of vendor nvidia: 2 held by replicas"
    await stage.delete(first)
    await stage.until_forgotten(first)
    await stage.until(second, ServiceState.ready)
