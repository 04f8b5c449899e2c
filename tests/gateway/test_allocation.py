"""A service gets its port in the creating transaction; never two the same one (invariant I2)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import pytest
from sqlalchemy import select

from appliance.gateway import operations, queries
from appliance.gateway.errors import GatewayClosed, GatewayFull, PortOutsideGateway, PortTaken
from appliance.gateway.ports import PortProbe, PortRules, PortUse
from appliance.gateway.schemas import GatewayChange, NewGateway
from appliance.gateway.states import GatewayState
from appliance.gateway.tables import ListenerRow
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.errors import Conflict, NotFound
from appliance.kernel.ids import TenantId, new_id
from tenants import actors
from tenants.work import Work

Open = Callable[..., Awaitable[None]]


def machine(uses: Mapping[int, PortUse] | None = None) -> PortProbe:
    """A machine on which these ports are used and the others free."""

    def probe(host: str, port: int) -> PortUse:
        return (uses or {}).get(port, PortUse.free)

    return probe


@pytest.fixture
def open_gateway(database: Database, clock: ManualClock, rules: PortRules) -> Open:
    async def create(name: str = "default", first_port: int = 9000, port_count: int = 16) -> None:
        async with database.write() as session:
            work = Work(session, actors.system("test"), clock)
            new = NewGateway(name=name, first_port=first_port, port_count=port_count)
            await operations.create_gateway(work, new, rules)

    return create


class Tenant:
    """Creates services' listeners, each in a transaction of its own."""

    def __init__(self, database: Database, clock: ManualClock, tenant_id: TenantId) -> None:
        self.database, self._clock, self._tenant_id = database, clock, tenant_id

    async def listen(
        self,
        gateway: str | None = "default",
        port: int | None = None,
        *,
        probe: PortProbe | None = None,
        service_id: str | None = None,
    ) -> int:
        async with self.database.write() as session:
            work = Work(session, actors.system("test", self._tenant_id), self._clock)
            row = await operations.allocate_listener(
                work, gateway, service_id or new_id("svc"), port, probe=probe or machine()
            )
            return row.port

    async def leave(self, service_id: str) -> None:
        async with self.database.write() as session:
            await operations.release_listener(session, service_id)

    async def ports(self) -> list[int]:
        async with self.database.read() as session:
            return sorted(await session.scalars(select(ListenerRow.port)))


@pytest.fixture
def tenant(database: Database, clock: ManualClock, tenant_id: TenantId) -> Tenant:
    return Tenant(database, clock, tenant_id)


async def test_lowest_free_port_is_given_and_given_again(open_gateway: Open, tenant: Tenant) -> None:
    await open_gateway()
    first = new_id("svc")
    assert await tenant.listen(service_id=first) == 9000
    assert await tenant.listen() == 9001
    await tenant.leave(first)
    assert await tenant.listen() == 9000


async def test_seventeenth_service_learns_the_remedy(open_gateway: Open, tenant: Tenant) -> None:
    await open_gateway()
    for _ in range(16):
        await tenant.listen()
    with pytest.raises(GatewayFull) as refusal:
        await tenant.listen()
    assert refusal.value.detail == (
        "gateway 'default' has all its 16 ports in use; choose another gateway, or ask an administrator to open one"
    )
    assert await tenant.ports() == list(range(9000, 9016))


async def test_hundred_at_once_get_sixteen_ports(open_gateway: Open, tenant: Tenant) -> None:
    await open_gateway()
    answers = await asyncio.gather(*(tenant.listen() for _ in range(100)), return_exceptions=True)
    assert sorted(answer for answer in answers if isinstance(answer, int)) == list(range(9000, 9016))
    failures = [answer for answer in answers if not isinstance(answer, int)]
    assert {type(failure) for failure in failures} == {GatewayFull}
    assert await tenant.ports() == list(range(9000, 9016))


async def test_hundred_at_once_anywhere_fill_every_gateway(open_gateway: Open, tenant: Tenant) -> None:
    await open_gateway("first", 9000, 5)
    await open_gateway("second", 9100, 7)
    answers = await asyncio.gather(*(tenant.listen(None) for _ in range(100)), return_exceptions=True)
    assert len([answer for answer in answers if isinstance(answer, int)]) == 12
    assert await tenant.ports() == [*range(9000, 9005), *range(9100, 9107)]
    with pytest.raises(GatewayFull, match="every open gateway"):
        await tenant.listen(None)


async def test_hundred_at_once_for_one_port(open_gateway: Open, tenant: Tenant) -> None:
    await open_gateway()
    answers = await asyncio.gather(*(tenant.listen(port=9007) for _ in range(100)), return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, int)] == [9007]
    assert {type(answer) for answer in answers if not isinstance(answer, int)} == {PortTaken}


async def test_port_of_a_stranger_is_skipped(open_gateway: Open, tenant: Tenant) -> None:
    await open_gateway("default", 9000, 4)
    strangers = machine({9000: PortUse.held, 9001: PortUse.shared, 9003: PortUse.held})
    assert await tenant.listen(probe=strangers) == 9002
    assert await tenant.listen(probe=strangers) == 9001, "a port that is shared, once none is quite free"
    with pytest.raises(GatewayFull, match=r"all its 4 ports in use \(9000, 9003 by other processes on the machine\)"):
        await tenant.listen(probe=strangers)


async def test_wanted_port(open_gateway: Open, tenant: Tenant) -> None:
    await open_gateway()
    assert await tenant.listen(port=9010) == 9010
    with pytest.raises(PortTaken, match="9010 of gateway 'default' has a listener"):
        await tenant.listen(port=9010)
    with pytest.raises(PortTaken, match="9011 of gateway 'default' is held by another process"):
        await tenant.listen(port=9011, probe=machine({9011: PortUse.held}))
    with pytest.raises(PortOutsideGateway, match="9016 is not one of gateway 'default', which has 9000 to 9015"):
        await tenant.listen(port=9016)


async def test_wanted_port_finds_its_gateway(open_gateway: Open, tenant: Tenant) -> None:
    await open_gateway("first", 9000)
    await open_gateway("second", 9100)
    assert await tenant.listen(None, 9103) == 9103
    with pytest.raises(PortTaken, match="9200 is free on no open gateway"):
        await tenant.listen(None, 9200)


async def test_without_any_gateway(tenant: Tenant) -> None:
    with pytest.raises(GatewayFull, match="ask an administrator to open one"):
        await tenant.listen(None)
    with pytest.raises(NotFound, match="no gateway 'default'"):
        await tenant.listen("default")


async def test_closed_gateway_takes_no_more(
    open_gateway: Open, tenant: Tenant, rules: PortRules, clock: ManualClock
) -> None:
    await open_gateway("first", 9000)
    await open_gateway("second", 9100)
    assert await tenant.listen("first") == 9000
    async with tenant.database.write() as session:
        row = await queries.lock_gateway(session, "first")
        change = GatewayChange(state=GatewayState.closed)
        await operations.change_gateway(Work(session, actors.system("test"), clock), row, change, rules)
    with pytest.raises(GatewayClosed, match="'first' is closed"):
        await tenant.listen("first")
    assert await tenant.listen(None) == 9100


async def test_service_has_one_listener(open_gateway: Open, tenant: Tenant) -> None:
    await open_gateway()
    service_id = new_id("svc")
    await tenant.listen(service_id=service_id)
    with pytest.raises(Conflict, match="has a listener already"):
        await tenant.listen(service_id=service_id)


async def test_rolled_back_creation_leaves_no_listener(
    open_gateway: Open, tenant: Tenant, tenant_id: TenantId, clock: ManualClock
) -> None:
    await open_gateway()

    async def create_and_fail() -> None:
        async with tenant.database.write() as session:
            work = Work(session, actors.system("test", tenant_id), clock)
            await operations.allocate_listener(work, "default", new_id("svc"), None, probe=machine())
            raise NotFound("the model is gone")

    with pytest.raises(NotFound):
        await create_and_fail()
    assert await tenant.ports() == []


async def test_unique_port_has_the_last_word(
    open_gateway: Open, tenant: Tenant, database: Database, clock: ManualClock, tenant_id: TenantId
) -> None:
    """A row that the search did not see (it is there only from within the probe on) ends in the next port."""
    await open_gateway()
    async with database.write() as session:
        work = Work(session, actors.system("test", tenant_id), clock)
        gateway = await queries.find_gateway(session, "default")

        def steal(host: str, port: int) -> PortUse:
            if port == 9000:
                thief = ListenerRow(
                    id=new_id("lsn"), gateway_id=gateway.id, node=gateway.node, port=9000, created_at=clock.now()
                )
                session.add(thief)
            return PortUse.free

        # The thief's row is flushed by the savepoint itself, before the listener that wants the same port.
        row = await operations.allocate_listener(work, "default", new_id("svc"), None, probe=steal)
        assert row.port == 9001
