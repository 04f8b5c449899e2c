"""A drain for maintenance: replicas move one at a time, and nothing new comes to what is closed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from appliance.services.planner import Add, DeploymentFacts, ReplicaFacts, Retire, ServiceFacts, plan
from appliance.services.states import COMING_OR_UP, Desired, ReplicaState, ServiceState
from gpu import cordoning
from gpu.states import Disposition
from gpu.tables import DeviceLeaseRow, NodeClaimRow, NodeRow
from tests.services.stage import Stage
from tests.support.waiting import eventually_async

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WHY = "its node is drained for maintenance"


def _replica(number: int, state: ReplicaState, drained: str = "", reason: str = "") -> ReplicaFacts:
    return ReplicaFacts(f"rpl_{number}", "dep", 1, state, reason=reason, drained=drained)


def _plan(wanted: int, *replicas: ReplicaFacts) -> list[object]:
    return list(plan(ServiceFacts("svc", Desired.running, [DeploymentFacts("dep", 1, wanted)], replicas), NOW))


def test_of_those_that_serve_one_goes_and_its_successor_is_waited_for() -> None:
    first, second = (_replica(number, ReplicaState.ready, WHY) for number in (1, 2))
    assert _plan(2, first, second) == [Retire("rpl_1", WHY)]
    assert _plan(2, _replica(1, ReplicaState.draining, WHY), second) == []
    assert _plan(2, second) == [Add("dep", 1)]
    for state in (ReplicaState.pending, ReplicaState.placed, ReplicaState.starting, ReplicaState.joining):
        assert _plan(2, second, _replica(3, state)) == []
    assert _plan(2, second, _replica(3, ReplicaState.ready)) == [Retire("rpl_2", WHY)]


def test_while_successors_fail_to_start_nobody_else_goes() -> None:
    failing = DeploymentFacts("dep", 1, 2, failures=3, next_start_at=NOW + timedelta(seconds=9))
    serving = _replica(2, ReplicaState.ready, WHY)
    assert plan(ServiceFacts("svc", Desired.running, [failing], [serving]), NOW) == []


def test_a_successor_without_a_place_does_not_hold_the_drain_up() -> None:
    waiting = _replica(3, ReplicaState.pending, reason="pool default has no free device")
    assert _plan(2, _replica(2, ReplicaState.ready, WHY), waiting) == [Retire("rpl_2", WHY)]


def test_what_does_not_serve_yet_goes_at_once() -> None:
    idle = [_replica(1, ReplicaState.starting, WHY), _replica(2, ReplicaState.placed, WHY)]
    serving = _replica(3, ReplicaState.ready, WHY)
    assert _plan(3, *idle, serving) == [Retire("rpl_1", WHY), Retire("rpl_2", WHY)]


def test_with_fewer_wanted_those_that_must_leave_anyway_go_first() -> None:
    stays, leaves = _replica(2, ReplicaState.ready), _replica(1, ReplicaState.ready, WHY)
    assert _plan(1, leaves, stays) == [Retire("rpl_1", WHY)]


coming = st.sampled_from(sorted(COMING_OR_UP))


@given(st.integers(1, 5), st.lists(st.tuples(coming, st.booleans()), max_size=6))
def test_a_drain_ends_and_never_takes_two_that_serve(wanted: int, present: list[tuple[ReplicaState, bool]]) -> None:
    """However it begins, carried out round by round with successors that are ready at once."""
    replicas = [
        _replica(number, state, WHY if is_drained and state is not ReplicaState.pending else "")
        for number, (state, is_drained) in enumerate(present)
    ]
    for round_ in range(20):
        changes = _plan(wanted, *replicas)
        retired = {change.replica_id for change in changes if isinstance(change, Retire) and change.reason}
        assert sum(r.id in retired and r.state is ReplicaState.ready for r in replicas) <= 1
        gone = {change.replica_id for change in changes if isinstance(change, Retire)}
        replicas = [_served(r) for r in replicas if r.id not in gone]
        for change in changes:
            if isinstance(change, Add):
                replicas += [_replica(100 * (round_ + 1) + n, ReplicaState.ready) for n in range(change.count)]
    assert not any(replica.drained for replica in replicas)
    assert len(replicas) == wanted


def _served(replica: ReplicaFacts) -> ReplicaFacts:
    return _replica(int(replica.id[4:]), ReplicaState.ready, replica.drained)


async def _dispose_node(stage: Stage, disposition: Disposition, reason: str | None = None) -> None:
    async with stage.database.write() as session:
        row = await cordoning.lock_node(session, "node-1")
        await cordoning.dispose(session, stage.clock, row, disposition, reason)


async def _add_node(stage: Stage) -> str:
    """A second node like the first, without devices."""
    async with stage.database.write() as session:
        first = (await session.scalars(select(NodeRow))).one()
        values = {column.name: getattr(first, column.name) for column in NodeRow.__table__.columns}
        session.add(NodeRow(**values | {"id": "nod_2", "name": "node-2", "memory_claimed": 0}))
    return "nod_2"


async def test_the_replicas_of_a_drained_node_move_one_by_one(stage: Stage) -> None:
    service_id = await stage.create(replicas=2)
    await stage.until(service_id, ServiceState.ready)
    second = await _add_node(stage)
    await _dispose_node(stage, Disposition.draining, "new firmware")

    async def moved() -> bool:
        await stage.round()
        ready = await stage.replicas(service_id, ReplicaState.ready)
        assert ready, "one replica at least serves all the time"
        return [row.node_id for row in ready] == [second, second]

    await eventually_async(moved, message="both replicas are ready on the other node")
    assert (await stage.events(service_id)).count(WHY) == 2
    async with stage.database.read() as session:
        assert set(await session.scalars(select(NodeClaimRow.node_id))) == {second}
        assert await cordoning.on_draining(session) == {}


async def test_what_runs_on_a_cordoned_node_stays_and_nothing_new_comes(stage: Stage) -> None:
    service_id = await stage.create(replicas=1)
    await stage.until(service_id, ServiceState.ready)
    (kept,) = await stage.replicas(service_id, ReplicaState.ready)
    await _dispose_node(stage, Disposition.cordoned, "new firmware")
    await stage.scale(service_id, 2)

    async def waits() -> bool:
        await stage.round()
        return "is cordoned for maintenance" in (await stage.service(service_id)).reason

    await eventually_async(waits, message="the second replica waits, and says for what")
    assert [row.id for row in await stage.replicas(service_id, ReplicaState.ready)] == [kept.id]
    await _dispose_node(stage, Disposition.open)
    await stage.until(service_id, ServiceState.ready)
    assert len(await stage.replicas(service_id, ReplicaState.ready)) == 2


async def test_the_replica_of_a_drained_device_moves(stage: Stage) -> None:
    service_id = await stage.create(flavor="gpu")
    await stage.until(service_id, ServiceState.ready)
    async with stage.database.write() as session:
        held = (await session.scalars(select(DeviceLeaseRow.device_id))).one()
        row = await cordoning.lock_device(session, held)
        index = row.index
        await cordoning.dispose(session, stage.clock, row, Disposition.draining, "a new fan")

    async def moved() -> bool:
        await stage.round()
        async with stage.database.read() as session:
            devices = (await session.scalars(select(DeviceLeaseRow.device_id))).all()
        return len(devices) == 1 and devices[0] != held and bool(await stage.replicas(service_id, ReplicaState.ready))

    await eventually_async(moved, message="a replica is ready on the other device")
    assert f"its device {index} (H200) is drained for maintenance" in await stage.events(service_id)
