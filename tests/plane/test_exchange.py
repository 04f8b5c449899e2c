"""One exchange without sockets: what it does with the connections that it is given."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from appliance.gateway.plane import wire
from appliance.gateway.plane.forward import Exchange
from appliance.gateway.plane.identifiers import RequestIds
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


def test_client_that_read_nothing_while_it_waited_holds_the_engine_back() -> None:
    main = wire.Deployment("dep_1", "main", 100, [wire.Replica("rpl_1", "/nowhere")])
    asked = parts.request(parts.shard(deployments=[main]))
    (replica,) = asked.service.deployments[0].replicas
    context = SimpleNamespace(
        now=lambda: 1.0,
        ids=RequestIds(),
        waiting=SimpleNamespace(queues={}),
        slots=SimpleNamespace(claim=lambda *_: 0),
        backends=SimpleNamespace(begin=lambda _: None),
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
