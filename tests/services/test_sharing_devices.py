"""Replicas that share a device: placed by their shares, launched one after another, told so."""

import asyncio

from sqlalchemy import select

from appliance.launchers.contract import ReplicaSpec
from appliance.services.line import Line
from appliance.services.states import Phase, ReplicaState, ServiceState
from appliance.services.tables import EventRow
from appliance.services.turns import is_turn
from gpu.tables import DeviceRow, FlavorRow
from tests.services.preparations import Slow
from tests.services.stage import Stage
from tests.support.waiting import eventually_async


async def _halves(stage: Stage) -> None:
    """A flavor of half a device, and only one device to place it on."""
    async with stage.database.write() as session:
        whole = (await session.scalars(select(FlavorRow).where(FlavorRow.name == "gpu"))).one()
        whole.device_share = 50
        other = (await session.scalars(select(DeviceRow).order_by(DeviceRow.uuid.desc()).limit(1))).one()
        other.cordoned = "elsewhere"


async def _until(stage: Stage, service_id: str, *states: ReplicaState, count: int) -> None:
    async def reached() -> bool:
        await stage.round()
        return len(await stage.replicas(service_id, *states)) == count

    await eventually_async(reached, message=f"{count} replicas are {' or '.join(states)}")


async def test_engines_on_one_device_start_one_after_another(stage: Stage) -> None:
    await _halves(stage)
    stage.launcher.manners.health = 503
    service_id = await stage.create(flavor="gpu", replicas=2)
    await _until(stage, service_id, ReplicaState.starting, count=1)
    (first,) = await stage.replicas(service_id, ReplicaState.starting)

    async def told() -> bool:
        await stage.round()
        events = await stage.events(service_id)
        return "another replica's engine loads on the same device; they start one after another" in events

    await eventually_async(told, message="the other waits for its turn")
    assert stage.launcher.running == {first.id}
    stage.launcher.manners.health = 200
    await stage.until(service_id, ServiceState.ready)
    ready = await stage.replicas(service_id, ReplicaState.ready)
    assert stage.launcher.running == {row.id for row in ready} == await stage.leased()


async def test_one_that_still_reads_its_model_keeps_nobody_waiting(stage: Stage) -> None:
    await _halves(stage)
    stage.verifier.slow = reading = Slow()
    slow = await stage.create("slow", flavor="gpu")
    await _until(stage, slow, ReplicaState.placed, count=1)
    await asyncio.wait_for(reading.begun.wait(), 10)
    stage.verifier.slow = None
    quick = await stage.create("quick", flavor="gpu")
    await stage.until(quick, ServiceState.ready)
    assert len(await stage.replicas(slow, ReplicaState.placed)) == 1
    stage.verifier.slow = reading
    reading.finish()
    await stage.until(slow, ServiceState.ready)


async def test_an_engine_that_runs_before_its_start_was_committed_is_waited_for(stage: Stage) -> None:
    """As after a crash between the two."""
    await _halves(stage)
    stage.verifier.slow = reading = Slow()
    crashed = await stage.create("crashed", flavor="gpu")
    await _until(stage, crashed, ReplicaState.placed, count=1)
    await asyncio.wait_for(reading.begun.wait(), 10)
    (first,) = await stage.replicas(crashed, ReplicaState.placed)
    await stage.launcher.start(_spec(stage, first.id))
    stage.verifier.slow = None
    other = await stage.create("other", flavor="gpu")

    async def told() -> bool:
        await stage.round()
        return "another replica's engine loads on the same device; they start one after another" in (
            await stage.events(other)
        )

    await eventually_async(told, message="the other waits for its turn")
    await stage.launcher.die(first.id)
    await stage.until(other, ServiceState.ready)


async def test_an_engine_that_runs_waits_for_nobody_ahead_of_it(stage: Stage) -> None:
    """Its start could not be committed, and it stands in line again, behind one that waits for it."""
    await _halves(stage)
    stage.verifier.slow = reading = Slow()
    service_id = await stage.create("pair", flavor="gpu", replicas=2)
    await _until(stage, service_id, ReplicaState.placed, count=2)
    first, second = (row.id for row in await stage.replicas(service_id, ReplicaState.placed))
    machinery = stage.machinery
    with machinery.line.standing(first), machinery.line.standing(second):
        assert [await is_turn(machinery, first), await is_turn(machinery, second)] == [True, False]
        await stage.launcher.start(_spec(stage, second))
        assert [await is_turn(machinery, first), await is_turn(machinery, second)] == [False, True]
    reading.finish()
    await stage.until(service_id, ServiceState.ready)


def _spec(stage: Stage, replica_id: str) -> ReplicaSpec:
    folder = stage.machinery.run_dir(replica_id)
    return ReplicaSpec(
        replica_id=replica_id, labels={"replica": replica_id}, argv=(), env={}, run_dir=folder, log_path=folder / "log"
    )


def test_the_line_is_left_in_any_order() -> None:
    line = Line()
    with line.standing("a"):
        with line.standing("b"), line.standing("c"):
            assert line.ahead_of("c") == {"a", "b"}
            assert line.ahead_of("a") == frozenset()
            assert line.ahead_of("not there") == {"a", "b", "c"}
        assert line.ahead_of("b") == {"a"}
    assert line.ahead_of("b") == frozenset()


async def test_a_third_half_waits_and_says_what_would_help(stage: Stage) -> None:
    await _halves(stage)
    service_id = await stage.create(flavor="gpu", replicas=3)

    async def waits() -> bool:
        await stage.round()
        reason = (await stage.service(service_id)).reason
        return reason == "pool default has no device with 50 % free of vendor nvidia: 1 cordoned, 1 held by replicas"

    await eventually_async(waits, message="the third waits")
    await _until(stage, service_id, ReplicaState.ready, count=2)
    assert (await stage.service(service_id)).state == ServiceState.degraded
    async with stage.database.read() as session:
        query = select(EventRow.detail).where(EventRow.service_id == service_id, EventRow.phase == Phase.placing.value)
        details = [detail for detail in await session.scalars(query) if detail]
    assert "1 device of which less than 50 % is free" in details[-1]["reasons"]
    assert "lift the cordon of 1 device" in details[-1]["would_help"]
