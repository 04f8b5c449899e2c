"""The shared listener of a gateway: one of its ports, as long as services depend on it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway import queries, sharing
from appliance.gateway.errors import GatewayClosed, GatewayFull, NoSharedListener, PortOutsideGateway, PortTaken
from appliance.gateway.ports import PortRules, PortUse
from appliance.gateway.schemas import GatewayChange
from appliance.gateway.states import GatewayState
from appliance.gateway.tables import GatewayRow
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.errors import InUse, NotFound
from appliance.kernel.ids import TenantId
from tenants.scope import TenantScope
from tests.gateway.test_gateways import Platform


class Sharing:
    """Gateways that an administrator shares; `services` are what only a shared listener leads to."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.services: list[str] = []

    async def share(self, name: str, port: int | None = None) -> int | None:
        async with self.platform.database.write() as session:
            row = await queries.lock_gateway(session, name)
            await sharing.open_shared_listener(self.platform.work(session), row, port, probe=lambda *_: PortUse.free)
        return await self.port(name)

    async def unshare(self, name: str) -> None:
        async with self.platform.database.write() as session:
            row = await queries.lock_gateway(session, name)
            await sharing.close_shared_listener(self.platform.work(session), row, self._services_on)

    async def port(self, name: str) -> int | None:
        async with self.platform.database.read() as session:
            row = await queries.find_gateway(session, name)
            return (await queries.shared_ports(session, [row.id])).get(row.id)

    async def version(self, name: str) -> int:
        async with self.platform.database.read() as session:
            return (await queries.find_gateway(session, name)).version

    async def chosen(self, name: str | None = None) -> GatewayRow:
        async with self.platform.database.write() as session:
            return await sharing.lock_shared_gateway(session, name)

    async def _services_on(self, _: AsyncSession, __: str) -> Sequence[str]:
        return self.services


@pytest.fixture
async def shared(database: Database, clock: ManualClock, rules: PortRules) -> Sharing:
    platform = Platform(database, clock, rules)
    await platform.create("default", 9000, port_count=2)
    return Sharing(platform)


async def test_a_gateway_has_at_most_one_and_may_move_it(shared: Sharing) -> None:
    assert await shared.share("default") == 9000
    assert (await shared.share("default"), await shared.version("default")) == (9000, 2)
    assert (await shared.share("default", 9001), await shared.version("default")) == (9001, 3)
    await shared.unshare("default")
    assert await shared.port("default") is None
    with pytest.raises(NotFound, match="no shared listener"):
        await shared.unshare("default")


async def test_it_is_one_of_the_gateways_ports(shared: Sharing, tenant_id: TenantId) -> None:
    with pytest.raises(PortOutsideGateway):
        await shared.share("default", 9002)
    await shared.platform.listen("default", tenant_id, 9000)
    with pytest.raises(PortTaken):
        await shared.share("default", 9000)
    assert await shared.share("default") == 9001
    with pytest.raises(GatewayFull):
        await shared.platform.listen("default", tenant_id)
    with pytest.raises(PortTaken):
        await shared.share("default", 9000)
    assert await shared.port("default") == 9001, "a move that fails leaves it where it was"


async def test_it_stays_while_a_service_has_no_other(shared: Sharing) -> None:
    await shared.share("default")
    shared.services = ["service 'chat'"]
    with pytest.raises(InUse, match="service 'chat'"):
        await shared.unshare("default")
    with pytest.raises(InUse, match="shared listeners"):
        await shared.platform.delete("default")


async def test_a_service_goes_to_the_oldest_that_is_open(shared: Sharing) -> None:
    with pytest.raises(NoSharedListener, match="no open gateway"):
        await shared.chosen()
    with pytest.raises(NoSharedListener, match="'default'"):
        await shared.chosen("default")
    await shared.platform.create("second", 9100)
    for name in ("second", "default"):
        await shared.share(name)
    assert (await shared.chosen()).name == "default"
    assert (await shared.chosen("second")).name == "second"
    await shared.platform.change("default", GatewayChange(state=GatewayState.closed))
    assert (await shared.chosen()).name == "second"
    with pytest.raises(GatewayClosed):
        await shared.chosen("default")


async def test_every_tenant_sees_it(shared: Sharing, tenant_id: TenantId) -> None:
    """And not the listeners of others."""
    await shared.share("default")
    await shared.platform.listen("default", tenant_id)
    async with shared.platform.database.read() as session:
        row = await queries.find_gateway(session, "default")
        seen = await queries.listeners_of(session, TenantScope(TenantId("ten_other")), [row.id])
        assert [listener.port for listener in seen[row.id]] == [9000]
        mine = await queries.listeners_of(session, TenantScope(tenant_id), [row.id])
        assert [listener.port for listener in mine[row.id]] == [9000, 9001]
