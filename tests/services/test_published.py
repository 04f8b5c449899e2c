"""The service shards of the snapshot say what the rows say, and only what changed is built again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select, update

from appliance.gateway.budgets import BudgetsBySubject
from appliance.gateway.errors import NoSharedListener
from appliance.gateway.plane import wire
from appliance.gateway.queries import lock_gateway
from appliance.gateway.sharing import open_shared_listener
from appliance.kernel.errors import BadInput, NotFound
from appliance.kernel.ids import TenantId, new_id
from appliance.models.tables import ModelVersionRow
from appliance.runtimes.catalog import Catalog
from appliance.services import lifecycle, users, views
from appliance.services.published import Routes
from appliance.services.schemas import (
    Affinity,
    Capture,
    Exposure,
    Queue,
    ServiceTimeouts,
    ServiceView,
    ShareService,
    UpdateService,
)
from appliance.services.states import ServiceState
from appliance.services.tables import ServiceRow
from appliance.services.views import Origin
from tenants.budget_tables import BudgetRow
from tenants.limits import Limits
from tenants.tables import TenantRow
from tests.runtimes.specs import LIGHT, light
from tests.services.stage import Stage

SCHEDULING = """
max_in_flight = 8
concurrency_argument = "--most"
context_argument = "--max-model-len"
default_args = ["--policy=priority"]
priority_argument = "--policy=priority"
"""
ARGUMENTS = """
[args."--most"]
type = "integer"
[args."--policy"]
type = "choice"
choices = ["fcfs", "priority"]
"""


class Told:
    """What the source of routes says, call by call."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        text = LIGHT.replace("start_timeout_s", f"{SCHEDULING}start_timeout_s") + ARGUMENTS
        catalog = Catalog([light(folder / "scheduling", text)])
        self.stage = stage
        self._routes = Routes(
            catalog, folder, stage.clock, salt=lambda tenant: f"salt {tenant}", body_bytes=1, owner_uid=7
        )

    async def all(self, budgets: BudgetsBySubject | None = None) -> Mapping[str, wire.ServiceShard]:
        async with self.stage.database.read() as session:
            return await self._routes(session, budgets or {})

    async def of(self, service_id: str) -> wire.ServiceShard:
        return (await self.all())[service_id]

    async def view(self, service_id: str) -> ServiceView:
        async with self.stage.database.read() as session:
            return await views.service(
                session, await session.get_one(ServiceRow, service_id), Origin("http", "gpu.example")
            )


@pytest.fixture
def told(stage: Stage, home: Path) -> Told:
    return Told(stage, home)


async def share_gateway(stage: Stage) -> int:
    async with stage.work() as work:
        gateway = await lock_gateway(work.session, "default")
        await open_shared_listener(work, gateway, None)
        return gateway.first_port


async def test_what_a_service_does_not_say_is_the_default(stage: Stage, told: Told) -> None:
    service_id = await stage.create()
    async with stage.database.write() as session:
        columns: dict[str, Any] = dict.fromkeys(("limits", "queue", "capture", "affinity"))
        await session.execute(update(ServiceRow).values(**columns, timeouts={"connect_s": 5.0}))
    shard = await told.of(service_id)
    assert (shard.limits, shard.affinity, shard.capture, shard.max_queued) == (wire.Limits(), "prefix", None, 1000)
    assert shard.timeouts == wire.Timeouts(connect_s=5.0)
    view = await told.view(service_id)
    assert (view.limits, view.affinity, view.queue, view.capture) == (Limits(), Affinity.prefix, Queue(), None)


async def test_every_change_reaches_the_gateway(stage: Stage, told: Told) -> None:
    service_id = await stage.create(
        limits=Limits(requests_per_minute=60),
        affinity=Affinity.key,
        queue=Queue(max_queued=3, queue_s=1.5),
        capture=Capture(share=0.5),
        timeouts=ServiceTimeouts(wake_s=9),
    )
    shard = await told.of(service_id)
    assert shard.limits == wire.Limits(requests_per_minute=60)
    assert (shard.affinity, shard.max_queued, shard.capture) == ("key", 3, wire.Capture(0.5))
    assert (shard.timeouts.queue_s, shard.timeouts.wake_s, shard.timeouts.connect_s) == (1.5, 9, 5)
    async with stage.service_work(service_id) as (work, row):
        change = UpdateService(
            limits=Limits(), affinity=Affinity.none, queue=Queue(queue_s=0), capture=None, timeouts=ServiceTimeouts()
        )
        await lifecycle.update_service(work, row, change)
    shard = await told.of(service_id)
    assert (shard.limits, shard.affinity, shard.capture) == (wire.Limits(), "none", None)
    assert (shard.max_queued, shard.timeouts.queue_s, shard.timeouts.wake_s) == (1000, 0, 300)


async def test_what_the_engine_can_do_comes_from_its_runtime(stage: Stage, told: Told) -> None:
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    shard = await told.of(service_id)
    (deployment,) = shard.deployments
    assert [replica.max_in_flight for replica in deployment.replicas] == [8]
    assert (shard.priorities, shard.context_tokens) == (True, None)
    async with stage.database.write() as session:
        await session.execute(update(ModelVersionRow).values(details={"max_positions": 4096}))
        await session.execute(update(ServiceRow).values(version=ServiceRow.version + 1))
    assert (await told.of(service_id)).context_tokens == 4096


async def test_arguments_of_the_deployment_have_the_last_word(stage: Stage, told: Told) -> None:
    service_id = await stage.create()
    await stage.until(service_id, ServiceState.ready)
    deployment = await stage.deployment(service_id)
    async with stage.database.write() as session:
        row = await session.merge(deployment)
        row.args = ["--policy", "fcfs", "--most=3", "--max-model-len", "512"]
    shard = await told.of(service_id)
    assert (shard.priorities, shard.context_tokens) == (False, 512)
    assert [replica.max_in_flight for replica in shard.deployments[0].replicas] == [3]


async def test_only_what_changed_is_built_again(stage: Stage, told: Told) -> None:
    services = [await stage.create(f"chat-{number}") for number in range(3)]
    first = await told.all()
    again = await told.all()
    assert all(again[service_id] is first[service_id] for service_id in services)
    async with stage.service_work(services[1]) as (work, row):
        await lifecycle.update_service(work, row, UpdateService(queue=Queue(max_queued=1)))
    budget = wire.Budget("bdg_1", 100)
    changed = await told.all({services[2]: [budget]})
    assert changed[services[0]] is first[services[0]]
    assert changed[services[1]].max_queued == 1
    assert changed[services[2]].budgets == [budget]
    await stage.until(services[0], ServiceState.ready)
    assert len((await told.of(services[0])).deployments[0].replicas) == 1


async def test_nothing_changed_is_a_few_narrow_queries(stage: Stage, told: Told) -> None:
    for number in range(3):
        await stage.create(f"chat-{number}")
    await told.all()
    statements: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        statements.append(statement)

    event.listen(stage.database.engine.sync_engine, "before_cursor_execute", note)
    await told.all()
    event.remove(stage.database.engine.sync_engine, "before_cursor_execute", note)
    assert len([statement for statement in statements if statement.startswith("SELECT")]) == 3
    assert not [statement for statement in statements if "defaults" in statement]


async def test_what_this_reasoning_misses_lives_a_minute(stage: Stage, told: Told) -> None:
    service_id = await stage.create()
    await told.of(service_id)
    async with stage.database.write() as session:
        await session.execute(update(ServiceRow).values(queue={"max_queued": 5}))
    assert (await told.of(service_id)).max_queued == 1000
    stage.clock.advance(60)
    assert (await told.of(service_id)).max_queued == 5


async def test_a_deleted_service_is_gone(stage: Stage, told: Told) -> None:
    service_id = await stage.create()
    await told.of(service_id)
    await stage.delete(service_id)
    assert await told.all() == {}


async def test_a_service_with_a_port_of_its_own_is_reached_by_both(stage: Stage, told: Told) -> None:
    service_id = await stage.create()
    before = await told.view(service_id)
    assert before.urls == [before.url] == [f"http://127.0.0.1:{before.port}/v1"]
    async with stage.work() as work:
        gateway = await lock_gateway(work.session, "default")
        await open_shared_listener(work, gateway, None)
        shared = gateway.first_port + 1
    view = await told.view(service_id)
    assert (view.listener, view.url) == (Exposure.own, before.url)
    assert view.urls == [before.url, f"http://127.0.0.1:{shared}/chat/v1"]
    assert (await told.of(service_id)).gateway_id == gateway.id


async def test_a_service_on_a_shared_listener_has_no_port(stage: Stage, told: Told) -> None:
    with pytest.raises(NoSharedListener):
        await stage.create(listener=Exposure.shared)
    port = await share_gateway(stage)
    with pytest.raises(BadInput, match="no port of its own") as caught:
        await stage.create(listener=Exposure.shared, port=port)
    assert [error.pointer for error in caught.value.errors] == ["/port"]
    service_id = await stage.create(listener=Exposure.shared)
    view = await told.view(service_id)
    assert (view.listener, view.gateway, view.port) == (Exposure.shared, "default", None)
    assert view.urls == [view.url] == [f"http://127.0.0.1:{port}/chat/v1"]
    reserved = await told.view(await stage.create("v1", listener=Exposure.shared))
    assert reserved.urls == [f"http://127.0.0.1:{port}/acme.v1/v1"]
    shard = await told.of(service_id)
    async with stage.database.read() as session:
        assert await users.services_without_port(session, shard.gateway_id or "") == ["service 'chat'", "service 'v1'"]
    await stage.delete(service_id)
    await stage.until_forgotten(service_id)
    async with stage.database.read() as session:
        assert await users.services_without_port(session, shard.gateway_id or "") == ["service 'v1'"]


async def test_a_service_is_shared_with_exactly_the_tenants_named(stage: Stage, told: Told) -> None:
    service_id = await stage.create()
    others = [TenantId(new_id("ten")) for _ in range(2)]
    async with stage.database.write() as session:
        for number, tenant_id in enumerate(others):
            session.add(
                TenantRow(
                    id=tenant_id,
                    name=f"other-{number}",
                    display_name="",
                    state="active",
                    created_at=stage.clock.now(),
                )
            )

    async def share(*tenants: str) -> None:
        async with stage.service_work(service_id) as (work, row):
            await lifecycle.share_service(work, row, ShareService(tenants=list(tenants)))

    assert (await told.of(service_id)).shared_with == []
    await share("other-1", others[0], "acme", "other-1")
    assert sorted((await told.of(service_id)).shared_with) == sorted(others)
    assert (await told.view(service_id)).shared_with == ["other-0", "other-1"]
    async with stage.database.read() as session:
        assert await users.services_elsewhere(session, others[0], [service_id, "svc_x"]) == ["svc_x"]
    with pytest.raises(NotFound, match="'nobody'"):
        await share("nobody")
    await share("other-0")
    assert (await told.of(service_id)).shared_with == [others[0]]
    async with stage.database.read() as session:
        assert await users.services_elsewhere(session, others[1], [service_id]) == [service_id]
    await share()
    assert (await told.of(service_id)).shared_with == []
    assert "shared with nobody any more, by dev" in await stage.events(service_id)


async def test_a_service_keeps_its_budgets_until_it_is_forgotten(stage: Stage) -> None:
    service_id = await stage.create()
    async with stage.database.write() as session:
        session.add(
            BudgetRow(
                id=new_id("bdg"),
                tenant_id=stage.tenant_id,
                kind="service",
                subject_id=service_id,
                subject_name="chat",
                period="day",
                tokens=1,
                period_start=stage.clock.now(),
                created_by="usr_1",
                created_at=stage.clock.now(),
            )
        )
    await stage.delete(service_id)
    await stage.until_forgotten(service_id)
    async with stage.database.read() as session:
        assert (await session.scalars(select(BudgetRow))).all() == []
