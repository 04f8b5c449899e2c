"""Opening, changing and removing gateways."""

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway import operations, queries
from appliance.gateway.errors import PortRangeRefused, PortsTaken
from appliance.gateway.ports import PortRules, PortUse
from appliance.gateway.schemas import GatewayChange, NewGateway
from appliance.gateway.tables import GatewayRow
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.errors import BadInput, InUse, NameTaken, NotFound
from appliance.kernel.ids import TenantId, new_id
from tenants import actors, audit
from tenants.work import Work


async def names_of_services(session: AsyncSession, service_ids: Sequence[str]) -> dict[str, str]:
    return {service_id: f"chat-{number}" for number, service_id in enumerate(service_ids)}


class Platform:
    """An administrator, each of whose acts is a transaction."""

    def __init__(self, database: Database, clock: ManualClock, rules: PortRules) -> None:
        self.database, self._clock, self._rules = database, clock, rules

    def work(self, session: AsyncSession, tenant_id: TenantId | None = None) -> Work:
        return Work(session, actors.system("test", tenant_id), self._clock)

    async def create(self, name: str, first_port: int, port_count: int = 16, host: str = "0.0.0.0") -> GatewayRow:
        async with self.database.write() as session:
            new = NewGateway(name=name, first_port=first_port, port_count=port_count, host=host)
            row = await operations.create_gateway(self.work(session), new, self._rules)
            assert audit.is_recorded(session)
            return row

    async def change(self, name: str, change: GatewayChange) -> GatewayRow:
        async with self.database.write() as session:
            row = await queries.lock_gateway(session, name)
            return await operations.change_gateway(self.work(session), row, change, self._rules)

    async def delete(self, name: str) -> None:
        async with self.database.write() as session:
            row = await queries.lock_gateway(session, name)
            await operations.delete_gateway(self.work(session), row, names_of_services)

    async def listen(self, gateway: str, tenant_id: TenantId, port: int | None = None) -> str:
        service_id = new_id("svc")
        async with self.database.write() as session:
            await operations.allocate_listener(
                self.work(session, tenant_id), gateway, service_id, port, probe=lambda *_: PortUse.free
            )
        return service_id


@pytest.fixture
def platform(database: Database, clock: ManualClock, rules: PortRules) -> Platform:
    return Platform(database, clock, rules)


async def test_gateway_is_found_by_name_and_id(platform: Platform) -> None:
    row = await platform.create("default", 9000)
    async with platform.database.read() as session:
        assert (await queries.find_gateway(session, "default")).id == row.id
        assert (await queries.find_gateway(session, row.id)).ports == range(9000, 9016)
        with pytest.raises(NotFound, match="'other'"):
            await queries.find_gateway(session, "other")


async def test_name_is_taken_once(platform: Platform) -> None:
    await platform.create("default", 9000)
    with pytest.raises(NameTaken, match="'default'"):
        await platform.create("default", 9100)


@pytest.mark.parametrize(("first_port", "port_count"), [(9000, 16), (8990, 11), (9015, 1), (9007, 2)])
async def test_ranges_do_not_overlap(platform: Platform, first_port: int, port_count: int) -> None:
    await platform.create("default", 9000)
    with pytest.raises(PortsTaken, match="'default', which has 9000 to 9015"):
        await platform.create("second", first_port, port_count)
    await platform.create("before", 8999, 1)
    await platform.create("after", 9016)


async def test_overlapping_gateways_at_once_leave_one(platform: Platform) -> None:
    attempts = (platform.create(f"gateway-{number}", 9000 + number, 16) for number in range(10))
    answers = await asyncio.gather(*attempts, return_exceptions=True)
    assert len([answer for answer in answers if isinstance(answer, GatewayRow)]) == 1
    assert {type(answer) for answer in answers if not isinstance(answer, GatewayRow)} == {PortsTaken}


async def test_rules_hold_for_new_and_changed_gateways(platform: Platform) -> None:
    with pytest.raises(PortRangeRefused, match="32768 to 60999"):
        await platform.create("default", 40000)
    await platform.create("default", 9000)
    with pytest.raises(PortRangeRefused, match="4430 is the administrators' port"):
        await platform.change("default", GatewayChange(first_port=4425))


@pytest.mark.parametrize("host", ["localhost", "300.1.1.1", "10.0.0.1/8"])
async def test_host_is_an_address(platform: Platform, host: str) -> None:
    with pytest.raises(BadInput, match="no IP address"):
        await platform.create("default", 9000, host=host)


async def test_change_keeps_what_it_does_not_name(platform: Platform) -> None:
    row = await platform.create("default", 9000)
    changed = await platform.change("default", GatewayChange(port_count=8, host="::"))
    assert (changed.name, changed.ports, changed.host, changed.version) == ("default", range(9000, 9008), "::", 2)
    renamed = await platform.change(row.id, GatewayChange(name="front"))
    assert (renamed.name, renamed.version) == ("front", 3)


async def test_range_keeps_its_listeners(platform: Platform, tenant_id: TenantId) -> None:
    await platform.create("default", 9000)
    await platform.listen("default", tenant_id, 9010)
    with pytest.raises(InUse, match="9000 to 9007 leave out 9010"):
        await platform.change("default", GatewayChange(port_count=8))
    moved = await platform.change("default", GatewayChange(first_port=9008, port_count=4))
    assert moved.ports == range(9008, 9012)


async def test_gateway_in_use_names_its_services(platform: Platform, tenant_id: TenantId) -> None:
    await platform.create("default", 9000)
    services = [await platform.listen("default", tenant_id) for _ in range(2)]
    with pytest.raises(InUse, match="services 'chat-0', 'chat-1' listen on gateway 'default'"):
        await platform.delete("default")
    for service_id in services:
        async with platform.database.write() as session:
            await operations.release_listener(session, service_id)
    await platform.delete("default")
    with pytest.raises(NotFound):
        await platform.delete("default")


async def test_ensuring_a_gateway_twice_makes_one(platform: Platform, rules: PortRules) -> None:
    new = NewGateway(name="default", first_port=9000)
    for _ in range(2):
        async with platform.database.write() as session:
            row = await operations.ensure_gateway(platform.work(session), new, rules)
            assert row.ports == range(9000, 9016)
