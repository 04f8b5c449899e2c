"""From a service's creation to an open port, with the real supervisor; and a stranger on the port."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway import operations, queries, views
from appliance.gateway.acknowledgements import Acknowledgements
from appliance.gateway.budgets import BudgetsBySubject
from appliance.gateway.keeper import GatewayKeeper
from appliance.gateway.plane.wire import ServiceShard, SnapshotWriter
from appliance.gateway.ports import PortProbe, PortRules, PortUse, probe
from appliance.gateway.publisher import GatewayNode, SnapshotPublisher
from appliance.gateway.schemas import ListenerView, NewGateway
from appliance.gateway.states import ListenerState
from appliance.kernel.clock import ManualClock
from appliance.kernel.ids import TenantId, new_id
from appliance.kernel.leases import Guarded
from tenants import actors
from tenants.scope import PLATFORM
from tenants.work import Work
from tests.gateway.conftest import NODE
from tests.support.ports import free_ports
from tests.support.processes import eventually_async


class Appliance:
    """The control plane's side of one gateway of four ports, and the real data plane."""

    def __init__(self, guarded: Guarded, home: Path, clock: ManualClock, tenant_id: TenantId) -> None:
        self.database, self._home, self._clock, self._tenant_id = guarded.database, home, clock, tenant_id
        writer = SnapshotWriter(home / "gateway" / "snapshot")
        node = GatewayNode(name=NODE, workers=2)
        self.publisher = SnapshotPublisher(guarded, writer, _no_services, clock, node=node, salt=str)
        self.keeper = GatewayKeeper(home, drain_s=1)
        self.acknowledgements = Acknowledgements(home)

    async def open_gateway(self, ports: range) -> None:
        async with self.database.write() as session:
            new = NewGateway(name="default", first_port=ports.start, port_count=len(ports), host="127.0.0.1")
            await operations.create_gateway(self._work(session), new, PortRules(NODE, 1024, {}))

    async def listen(self, service_id: str, port: int | None = None, *, by: PortProbe = probe) -> int:
        async with self.database.write() as session:
            row = await operations.allocate_listener(self._work(session), "default", service_id, port, probe=by)
        await self.publisher.publish()
        return row.port

    async def leave(self, service_id: str) -> int:
        async with self.database.write() as session:
            await operations.release_listener(session, service_id)
        return await self.publisher.publish()

    async def shown(self) -> list[ListenerView]:
        async with self.database.read() as session:
            row = await queries.find_gateway(session, "default")
            return (await views.gateway(session, PLATFORM, row, self._home)).listeners

    async def is_shown(self, *states: ListenerState) -> None:
        async def matches() -> bool:
            await self.keeper.reconcile()
            return tuple(listener.state for listener in await self.shown()) == states

        await eventually_async(matches, 20, message=f"the listeners are {states}")

    async def has_workers(self, count: int) -> None:
        async def matches() -> bool:
            return len(self.acknowledgements.live_workers()) == count

        await eventually_async(matches, 10, message=f"{count} workers live")

    def _work(self, session: AsyncSession) -> Work:
        return Work(session, actors.system("test", self._tenant_id), self._clock)


async def _no_services(_: AsyncSession, __: BudgetsBySubject) -> Mapping[str, ServiceShard]:
    return {}


@pytest.fixture
async def appliance(
    guarded: Guarded, tmp_path: Path, clock: ManualClock, tenant_id: TenantId
) -> AsyncIterator[Appliance]:
    appliance = Appliance(guarded, tmp_path / "home", clock, tenant_id)
    yield appliance
    await appliance.keeper.stop(5)


@contextmanager
def stranger(port: int) -> Iterator[None]:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        holder.listen(1)
        yield


async def accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def test_port_is_open_soon_and_closed_again(appliance: Appliance) -> None:
    ports = free_ports(4)
    await appliance.open_gateway(ports)
    service_id = new_id("svc")
    port = await appliance.listen(service_id)
    assert port == ports[0]
    (listener,) = await appliance.shown()
    assert listener.state is ListenerState.unknown, "no supervisor runs yet"
    await appliance.is_shown(ListenerState.listening)
    await appliance.has_workers(2)
    assert await accepts(port)

    version = await appliance.leave(service_id)

    async def is_closed() -> bool:
        return appliance.acknowledgements.acknowledged(version) and not await accepts(port)

    await eventually_async(is_closed, 10, message="the port is closed")
    assert appliance.acknowledgements.applied_version() == version


async def test_port_just_released_is_given_again(appliance: Appliance) -> None:
    """Our own supervisor still listens on it for a moment, which is no reason to refuse it."""
    (port,) = free_ports(1)
    await appliance.open_gateway(range(port, port + 1))
    first, second = new_id("svc"), new_id("svc")
    await appliance.listen(first)
    await appliance.is_shown(ListenerState.listening)
    async with appliance.database.write() as session:
        await operations.release_listener(session, first)  # and nothing is published
    assert probe("127.0.0.1", port) is PortUse.shared
    assert await appliance.listen(second) == port
    await appliance.is_shown(ListenerState.listening)
    assert await accepts(port)


async def test_stranger_is_avoided_and_otherwise_reported(appliance: Appliance) -> None:
    ports = free_ports(4)
    await appliance.open_gateway(ports)
    with stranger(ports[0]):
        assert await appliance.listen(new_id("svc")) == ports[1], "seen at allocation"
    with stranger(ports[2]):
        # It came between the probe and the bind.
        assert await appliance.listen(new_id("svc"), ports[2], by=lambda *_: PortUse.free) == ports[2]
        await appliance.is_shown(ListenerState.listening, ListenerState.failed)
        _, failed = await appliance.shown()
        assert failed.reason is not None
        assert str(ports[2]) in failed.reason
        assert "in use" in failed.reason
    await appliance.is_shown(ListenerState.listening, ListenerState.listening)
    assert await accepts(ports[2])
