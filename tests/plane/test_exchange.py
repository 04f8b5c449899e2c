"""One exchange without sockets: what it does with the connections that it is given."""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from appliance.gateway.plane import wire
from appliance.gateway.plane.backends import Replica
from appliance.gateway.plane.forward import Exchange
from appliance.gateway.plane.identifiers import RequestIds
from appliance.gateway.plane.ledger import Ledger
from appliance.gateway.plane.prepared import Prepared
from appliance.gateway.plane.slots import SLOTS, SlotTable
from appliance.gateway.plane.upstream import UpstreamConnection
from tests.plane import parts

if TYPE_CHECKING:
    import asyncio

    from appliance.gateway.plane.answering import Client
    from appliance.gateway.plane.context import Context


class Wire:
    """A transport to an engine."""

    def __init__(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def write(self, data: bytes) -> None:
        assert data.startswith(b"POST ")


def test_long_route_does_not_keep_a_request_from_its_slot(tmp_path: Path) -> None:
    path = f"/{'x' * 500}"
    asked = parts.request(parts.shard(routes=[f"POST {path}"]), path=path)
    asked.prepared = Prepared()
    asked.prepared.model = "m" * 128
    asked.request_id = b"r" * 128
    asked.key = wire.KeyEntry("k" * 36, "t" * 36, "test")
    replica = Replica(wire.Replica("r" * 36, "/nowhere"), "d" * 36, 0)
    context = SimpleNamespace(ids=RequestIds(), slots=SlotTable(tmp_path / SLOTS), backends=parts.backends())
    assert Ledger(cast("Context", context), asked).begin(replica)


def test_client_that_read_nothing_while_it_waited_holds_the_engine_back() -> None:
    main = wire.Deployment("dep_1", "main", 100, [wire.Replica("rpl_1", "/nowhere")])
    asked = parts.request(parts.shard(deployments=[main]))
    (replica,) = asked.service.deployments[0].replicas
    context = SimpleNamespace(
        now=lambda: 1.0,
        ids=RequestIds(),
        waiting=SimpleNamespace(queues={}),
        slots=SimpleNamespace(claim=lambda *_: 0),
        backends=parts.backends(),
    )
    exchange = Exchange(cast("Context", context), cast("Client", SimpleNamespace(deadline=0.0)), asked)
    connection, transport = UpstreamConnection(replica), Wire()
    connection.connection_made(cast("asyncio.BaseTransport", transport))
    connection.idle_since = 1.0
    replica.idle.append(connection)
    exchange.pause()
    exchange.start()
    assert not transport.reads
    exchange.resume()
    assert transport.reads


def test_client_that_leaves_while_it_waits_frees_no_place() -> None:
    asked = parts.request(parts.shard())
    freed: list[str] = []
    waiting = SimpleNamespace(
        queues={asked.service.shard.id: None},
        join=lambda *_: SimpleNamespace(since=0.0),
        leave=lambda _: None,
        freed=freed.append,
    )
    context = SimpleNamespace(now=lambda: 1.0, ids=RequestIds(), waiting=waiting, settle=lambda _: None)
    exchange = Exchange(cast("Context", context), cast("Client", SimpleNamespace(deadline=0.0)), asked)
    exchange.start()
    exchange.client_gone()
    assert freed == []
