"""What a service says of where its replicas go: spread or packed, on nodes with labels; changed while it runs."""

from __future__ import annotations

import msgspec
import pytest
from sqlalchemy import select, update

from appliance.services import holdings, queries
from appliance.services.lifecycle import update_service
from appliance.services.planning import plan_service
from appliance.services.schemas import CreateService, DeploymentView, Placement, UpdateService
from appliance.services.states import ReplicaState, ServiceState
from appliance.services.tables import DeploymentRow
from appliance.services.views import Origin, services
from gpu.requests import Strategy
from gpu.tables import NodeRow
from tests.services.stage import Stage
from tests.support.waiting import eventually_async

RACK = Placement(node_labels={"rack": "A1"})


async def _add_node(stage: Stage, **changes: object) -> str:
    """A second node like the first, without devices."""
    async with stage.database.write() as session:
        first = (await session.scalars(select(NodeRow))).one()
        values = {column.name: getattr(first, column.name) for column in NodeRow.__table__.columns}
        session.add(NodeRow(**values | {"id": "nod_2", "name": "node-2", "memory_claimed": 0} | changes))
    return "nod_2"


async def _places(stage: Stage, service_id: str) -> list[str | None]:
    return [row.node_id for row in await stage.replicas(service_id, ReplicaState.ready)]


async def _view(stage: Stage, service_id: str) -> DeploymentView:
    async with stage.work() as work:
        row = await queries.find(work.scope, work.session, service_id)
        (view,) = await services(work.session, [row], Origin("http", "localhost"))
    (deployment,) = view.deployments
    return deployment


async def test_packed_replicas_stay_together_and_spread_ones_do_not(stage: Stage) -> None:
    second = await _add_node(stage)
    packed = await stage.create("packed", replicas=2)
    await stage.until(packed, ServiceState.ready)
    assert len(set(await _places(stage, packed))) == 1
    spread = await stage.create("spread", replicas=2, placement=Placement(strategy=Strategy.spread))
    await stage.until(spread, ServiceState.ready)
    places = await _places(stage, spread)
    assert len(set(places)) == 2
    assert second in places


async def test_a_replica_that_comes_later_counts_those_that_are_there(stage: Stage) -> None:
    """The first is where it is best; the second, in another round, goes to the other node though it is worse."""
    await _add_node(stage)
    service_id = await stage.create(placement=Placement(strategy=Strategy.spread))
    await stage.until(service_id, ServiceState.ready)
    await stage.scale(service_id, 2)
    await stage.until(service_id, ServiceState.ready)

    async def both() -> bool:
        await stage.round()
        return len(await _places(stage, service_id)) == 2

    await eventually_async(both, message="two replicas are ready")
    assert len(set(await _places(stage, service_id))) == 2


async def test_what_leaves_is_no_sibling(stage: Stage) -> None:
    service_id = await stage.create(placement=Placement(strategy=Strategy.spread))
    await stage.until(service_id, ServiceState.ready)
    deployment = (await stage.deployment(service_id)).id
    (ready,) = await stage.replicas(service_id, ReplicaState.ready)
    async with stage.database.write() as session:
        assert await holdings.by_node(session, {deployment}) == {deployment: {ready.node_id: 1}}
        row = await session.get_one(type(ready), ready.id)
        row.state = ReplicaState.draining.value
        await session.flush()
        assert await holdings.by_node(session, {deployment}) == {}


async def test_only_nodes_with_the_labels_will_do(stage: Stage) -> None:
    service_id = await stage.create(placement=RACK)

    async def waits() -> bool:
        await stage.round()
        return (await stage.service(service_id)).reason == "no node of pool default has the labels rack=A1"

    await eventually_async(waits, message="it waits and says for what")
    second = await _add_node(stage, labels={"rack": "A1", "row": "3"})
    await stage.until(service_id, ServiceState.ready)
    assert await _places(stage, service_id) == [second]


async def test_it_is_shown_and_changed_as_a_whole_and_nothing_moves(stage: Stage) -> None:
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    assert (await _view(stage, service_id)).placement == Placement()
    before = await _places(stage, service_id)
    told = Placement(strategy=Strategy.spread, node_labels={"rack": "A1"}, preemptible=True)
    async with stage.service_work(service_id) as (work, row):
        await update_service(work, row, UpdateService(placement=told))
    assert (await _view(stage, service_id)).placement == told
    for _ in range(3):
        await stage.round()
    assert await _places(stage, service_id) == before
    async with stage.service_work(service_id) as (work, row):
        await update_service(work, row, UpdateService(placement=Placement(preemptible=True)))
    assert (await _view(stage, service_id)).placement == Placement(preemptible=True)


async def test_a_service_of_the_release_before_is_packed_anywhere(stage: Stage) -> None:
    service_id = await stage.create()
    async with stage.database.write() as session:
        await session.execute(update(DeploymentRow).values(node_labels=None))
    assert (await _view(stage, service_id)).placement == Placement()
    await stage.until(service_id, ServiceState.ready)


async def test_a_plan_tells_that_no_node_has_the_labels(stage: Stage) -> None:
    async with stage.work() as work:
        request = CreateService(name="chat", model="tiny", flavor="small", placement=RACK)
        told = await plan_service(work, stage.publishing, request)
    assert (told.node, told.waits) == (None, "no node of pool default has the labels rack=A1")


@pytest.mark.parametrize(
    "placement",
    [
        {"strategy": "best"},
        {"node_labels": {"Rack": "a"}},
        {"node_labels": {"rack": "a b"}},
        {"node_labels": {"rack": "a\n"}},
        {"node_labels": {f"rack-{number}": "a" for number in range(33)}},
        {"node_labels": {"rack": "a" * 64}},
        {"colour": "red"},
    ],
)
def test_what_is_no_placement_is_refused(placement: dict[str, object]) -> None:
    document = msgspec.json.encode({"name": "chat", "model": "tiny", "placement": placement})
    with pytest.raises(msgspec.ValidationError, match="placement"):
        msgspec.json.decode(document, type=CreateService)
