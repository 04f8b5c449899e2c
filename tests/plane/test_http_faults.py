"""Clients that do harm, beside one that behaves: the worker's memory stays bounded and the other is still served.

Memory is that of the worker's process (the clients are in this one), with bounds far above what was measured; the
figures are printed (`pytest -s`).
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import quantiles

import pytest

from appliance.gateway.plane import wire
from tests.plane.conformance.cases import CHUNKED, post
from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine, chunk_event
from tests.plane.harness import SERVICE, Connection, Gateway, chat, request, running
from tests.plane.test_streaming import resident_kib
from tests.plane.test_tls import client_context, write_certificate
from tests.support.ports import free_port
from tests.support.waiting import eventually

MIB = 1024 * 1024
ASKED = request(chat(messages=[{"role": "user", "content": "x" * 100_000}]))
STREAMED = request(chat(stream=True, messages=[{"role": "user", "content": "x" * 100_000}]))

Report = Callable[[str, object], None]


@pytest.fixture
def report() -> Report:
    def write(name: str, value: object) -> None:
        sys.stdout.write(f"{name}: {value}\n")

    return write


@pytest.fixture
def tls_port(own_gateway: Gateway, tmp_path: Path) -> int:
    port = free_port()
    files = write_certificate(tmp_path / "tls", "localhost")
    own_gateway.listeners.append(wire.Listener("lsn_tls", "gwy_1", "127.0.0.1", port, SERVICE, files))
    return port


def well_behaved(gateway: Gateway, count: int = 100) -> str:
    """p50 and p99 of that many requests, in milliseconds; each is answered."""
    took = []
    with gateway.connect() as connection:
        for _ in range(count):
            begun = time.perf_counter()
            connection.send(request(chat()))
            assert connection.answer().status == 200
            took.append((time.perf_counter() - begun) * 1000)
    cuts = quantiles(took, n=100)
    return f"p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms"


@contextmanager
def grown(gateway: Gateway, count: int, at_most_kib: float, report: Report) -> Iterator[None]:
    """The worker's memory grows within by no more than `at_most_kib` for each of `count` connections."""
    pid = gateway.worker_pid()
    before = resident_kib(pid)
    yield
    each = (resident_kib(pid) - before) / count
    report("KiB for each connection", round(each, 1))
    assert each <= at_most_kib


def connected(stack: ExitStack, port: int, count: int, *, tls: bool) -> list[Connection]:
    context = client_context() if tls else None
    return [stack.enter_context(Connection(port, tls=context)) for _ in range(count)]


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.parametrize(("tls", "count", "at_most_kib"), [(False, 2000, 12), (True, 1000, 64)])
def test_memory_of_idle_connections_that_were_busy(
    own_gateway: Gateway, tls_port: int, report: Report, *, tls: bool, count: int, at_most_kib: float
) -> None:
    port = tls_port if tls else own_gateway.port
    with running(own_gateway), ExitStack() as stack:

        def busy_once(count: int) -> None:
            for connection in connected(stack, port, count, tls=tls):
                connection.send(ASKED)
                assert connection.answer().status == 200

        busy_once(50)
        with grown(own_gateway, count, at_most_kib, report):
            busy_once(count)


async def stays_open(request: EngineRequest, answer: Answer) -> None:
    await answer.stream_head()
    await answer.chunk(chunk_event("first", 9, 1))
    await request.gone()


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.parametrize(("tls", "count", "at_most_kib"), [(False, 1000, 40), (True, 500, 96)])
def test_memory_of_open_streams(
    own_gateway: Gateway,
    own_engine: FakeEngine,
    tls_port: int,
    report: Report,
    *,
    tls: bool,
    count: int,
    at_most_kib: float,
) -> None:
    own_engine.script = stays_open
    port = tls_port if tls else own_gateway.port
    with running(own_gateway), ExitStack() as stack:

        def stream(count: int) -> None:
            for connection in connected(stack, port, count, tls=tls):
                connection.send(STREAMED)
                connection.read_until(b"first")

        stream(20)
        with grown(own_gateway, count, at_most_kib, report):
            stream(count)


@pytest.mark.usefixtures("many_descriptors")
def test_five_thousand_idle_connections(own_gateway: Gateway, report: Report) -> None:
    with running(own_gateway), ExitStack() as stack:
        report("alone", well_behaved(own_gateway))
        with grown(own_gateway, 5000, 12, report):
            connected(stack, own_gateway.port, 5000, tls=False)
            eventually(lambda: own_gateway.statuses()[0].connections >= 5000)
        report("beside", well_behaved(own_gateway))


def test_ten_gigabytes_in_chunks_are_refused_early(own_gateway: Gateway, report: Report) -> None:
    with running(own_gateway), own_gateway.connect() as connection:
        pid = own_gateway.worker_pid()
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        sent = 0
        connection.send(post(CHUNKED, b""))
        try:
            while sent < 10_000 * MIB:
                connection.send(piece)
                sent += len(piece)
        except (ConnectionError, TimeoutError):
            report("refused after MiB", sent // MIB)
        assert connection.answer().status == 413
        report("resident MiB", resident_kib(pid) // 1024)
        assert sent < 64 * MIB
        assert resident_kib(pid) < 140 * 1024
        report("afterwards", well_behaved(own_gateway))


def test_slow_senders_and_slow_readers_beside_a_client_that_behaves(
    own_gateway: Gateway, own_engine: FakeEngine, report: Report
) -> None:
    piece = chunk_event("x" * 60_000, 9, 1)
    healthy = own_engine.script

    async def floods_if_asked(seen: EngineRequest, answer: Answer) -> None:
        if not seen.json.get("stream"):
            await healthy(seen, answer)
            return
        answer.writer.transport.set_write_buffer_limits(high=1)
        await answer.stream_head()
        while not seen.gone.is_set():
            await answer.chunk(piece)

    own_engine.script = floods_if_asked
    with running(own_gateway), ExitStack() as stack:
        report("alone", well_behaved(own_gateway))
        for _ in range(50):
            reader = stack.enter_context(own_gateway.connect())
            reader.send(request(chat(stream=True)))
            reader.read_until(b"xxx")
            sender = stack.enter_context(own_gateway.connect())
            sender.send(post(b"Content-Length: 1000000\r\n", b"x" * 1000))
        report("beside", well_behaved(own_gateway))
        report("resident MiB", resident_kib(own_gateway.worker_pid()) // 1024)
        assert resident_kib(own_gateway.worker_pid()) < 100 * 1024
