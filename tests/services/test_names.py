"""What requests call services by leads to one of them, for each tenant's keys."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from sqlalchemy import func, select

from appliance.gateway.queries import lock_gateway
from appliance.gateway.sharing import open_shared_listener
from appliance.kernel.errors import ApplianceError
from appliance.kernel.ids import TenantId, new_id
from appliance.services import lifecycle
from appliance.services.errors import ServedModelTaken
from appliance.services.names import Called, clashes, require_clear_gateway
from appliance.services.schemas import ShareService
from appliance.services.tables import ServiceRow, ServiceShareRow
from tenants.tables import TenantRow
from tests.services.stage import Stage


async def share_gateway(stage: Stage) -> None:
    async with stage.work() as work:
        gateway = await lock_gateway(work.session, "default")
        await require_clear_gateway(work.session, gateway.id)
        await open_shared_listener(work, gateway, None)


async def add_tenant(stage: Stage, name: str) -> TenantId:
    tenant_id = TenantId(new_id("ten"))
    async with stage.database.write() as session:
        row = TenantRow(id=tenant_id, name=name, display_name="", state="active", created_at=stage.clock.now())
        session.add(row)
    return tenant_id


async def give(stage: Stage, service_id: str, tenant_id: TenantId) -> None:
    """Make another tenant the service's owner, as if it had published it."""
    async with stage.database.write() as session:
        (await session.get_one(ServiceRow, service_id)).tenant_id = tenant_id


async def share(stage: Stage, service_id: str, *tenants: str) -> None:
    async with stage.database.write() as session:
        owner = (await session.get_one(ServiceRow, service_id)).tenant_id
    async with stage.work_of(TenantId(owner)) as work:
        row = await work.session.get_one(ServiceRow, service_id)
        await lifecycle.share_service(work, row, ShareService(tenants=list(tenants)))


async def attempt(stage: Stage, name: str, **values: object) -> str:
    try:
        await stage.create(name, **values)
    except ApplianceError as error:
        return error.code
    return "created"


@pytest.mark.parametrize(
    "served", ["chat", "chat-model", "acme.chat"], ids=["its name", "its served model", "its full name"]
)
async def test_a_name_of_another_service_is_refused_on_a_shared_listener(stage: Stage, served: str) -> None:
    await share_gateway(stage)
    await stage.create("chat", served_model="chat-model")
    with pytest.raises(ServedModelTaken, match=rf"'{served}' reaches service 'acme.chat' already"):
        await stage.create("second", served_model=served)
    async with stage.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(ServiceRow)) == 1
    await stage.create("second", served_model="second-model")


async def test_of_many_at_once_with_one_served_model_one_succeeds(stage: Stage) -> None:
    await share_gateway(stage)
    outcomes = await asyncio.gather(*(attempt(stage, f"chat-{number}", served_model="gpt") for number in range(5)))
    assert Counter(outcomes) == {"created": 1, ServedModelTaken.code: 4}


async def test_ports_of_their_own_tell_services_apart(stage: Stage) -> None:
    await stage.create("first", served_model="gpt")
    await stage.create("second", served_model="gpt")
    with pytest.raises(ServedModelTaken, match=r"'acme.first' and 'acme.second' are both called 'gpt'"):
        await share_gateway(stage)


async def test_sharing_under_a_name_that_the_tenant_has_is_refused(stage: Stage) -> None:
    await share_gateway(stage)
    guest = await add_tenant(stage, "guest")
    first = await stage.create("first", served_model="gpt")
    await give(stage, first, guest)
    second = await stage.create("second", served_model="gpt")  # nobody may use both

    with pytest.raises(ServedModelTaken, match=r"'gpt' reaches service 'guest.first' already"):
        await share(stage, second, "guest")

    async with stage.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(ServiceShareRow)) == 0


async def test_two_services_are_not_shared_with_one_tenant_under_one_name(stage: Stage) -> None:
    await share_gateway(stage)
    for name in ("guest", "third"):
        await add_tenant(stage, name)
    first = await stage.create("first", served_model="gpt")
    await give(stage, first, await add_tenant(stage, "owner"))
    second = await stage.create("second", served_model="gpt")
    await share(stage, first, "guest")
    with pytest.raises(ServedModelTaken):
        await share(stage, second, "guest", "third")
    await share(stage, second, "third")
    await share(stage, first)
    await share(stage, second, "guest", "third")


async def test_what_is_being_deleted_holds_no_name(stage: Stage) -> None:
    await share_gateway(stage)
    await stage.delete(await stage.create("first", served_model="gpt"))
    assert await attempt(stage, "second", served_model="gpt") == "created"


def test_clashes_are_told_in_one_order() -> None:
    services = [
        Called(f"svc_{number}", "acme", f"n{number}", served, frozenset(users))
        for number, (served, users) in enumerate((("m", "ab"), ("m", "bc"), ("m", "d"), ("n0", "a")))
    ]
    told = [(clash.name, clash.one.id, clash.other.id) for clash in clashes(services)]
    assert told == [("m", "svc_0", "svc_1"), ("n0", "svc_0", "svc_3")]
    assert clashes(reversed(services)) == clashes(services)
