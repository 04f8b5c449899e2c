"""Full replicas and sleeping services, through real processes."""

import asyncio
import logging
import os
import signal
import statistics
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from appliance.gateway.demand import Demands
from appliance.gateway.plane import wire
from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine, Gate, answer_chat, completion
from tests.plane.harness import SERVICE, Connection, Gateway, chat, key_entry, request, service, sha256
from tests.support.waiting import eventually

LOG = logging.getLogger(__name__)
GUEST = "sk-guest"


def deployment(engine: Path, *, places: int | None = 1, replica: str = "rpl_1") -> wire.Deployment:
    return wire.Deployment("dep_1", "main", 100, [wire.Replica(replica, str(engine), max_in_flight=places)])


def publish(gateway: Gateway, engine: FakeEngine, *, places: int = 1, **changes: Any) -> None:
    deployments = changes.pop("deployments", [deployment(engine.path, places=places)])
    gateway.services = {SERVICE: service(engine.path, deployments=deployments, **changes)}
    gateway.publish()


def queued(gateway: Gateway, replica: str = "rpl_1") -> int:
    return sum(status.replicas.get(replica, (0, 0))[1] for status in gateway.statuses())


def await_queued(gateway: Gateway, count: int) -> None:
    """And a moment longer: the worker's clock counts milliseconds."""
    eventually(lambda: queued(gateway) == count, message=f"{count} requests wait")
    seen = time.monotonic()
    eventually(lambda: time.monotonic() > seen + 0.005, message="time passes")


def test_request_waits_for_a_place_and_tells_how_long(gateway: Gateway, engine: FakeEngine) -> None:
    publish(gateway, engine)
    gate = engine.script = Gate()
    with gateway.connect() as first, gateway.connect() as second:
        first.send(request(chat(stream=True)))
        first.read_until(b"first")
        second.send(request(chat(), fields={"X-Request-Id": "waited"}))
        await_queued(gateway, 1)
        assert len(engine.requests) == 1
        engine.script = answer_chat
        gate.open()
        assert second.answer().json == completion()
    await_queued(gateway, 0)
    record = gateway.record("waited")
    assert 0 < record.queue_ms <= record.duration_ms
    assert (record.status, record.prompt_tokens, record.replica_id) == (200, 9, "rpl_1")


def test_client_that_leaves_while_it_waits_is_billed_nothing(gateway: Gateway, engine: FakeEngine) -> None:
    publish(gateway, engine)
    gate = engine.script = Gate()
    with gateway.connect() as first:
        first.send(request(chat(stream=True)))
        first.read_until(b"first")
        with gateway.connect() as second:
            second.send(request(chat(), fields={"X-Request-Id": "left"}))
            await_queued(gateway, 1)
        await_queued(gateway, 0)
        record = gateway.record("left")
        gate.open()
        first.read_until(b"[DONE]")
    assert (record.status, record.outcome, record.replica_id) == (499, "client_cut", "")
    assert (record.prompt_tokens, record.completion_tokens, record.tail_tokens, record.estimated) == (0, 0, 0, False)
    assert record.queue_ms > 0
    assert len(engine.requests) == 1


def test_request_that_has_waited_long_enough_is_refused(gateway: Gateway, engine: FakeEngine) -> None:
    publish(gateway, engine, timeouts=wire.Timeouts(queue_s=0.3))
    engine.script = Gate()
    with gateway.connect() as first:
        first.send(request(chat(stream=True)))
        first.read_until(b"first")
        answer = gateway.ask(request(chat()))
    assert (answer.status, answer.error["code"], answer.error["type"]) == (503, "overloaded", "server_error")
    assert int(answer.fields["retry-after"]) >= 1


def test_tenant_that_fills_the_queue_is_told_to_send_less(gateway: Gateway, engine: FakeEngine) -> None:
    publish(gateway, engine, max_queued=1)
    engine.script = Gate()
    with gateway.connect() as first, gateway.connect() as second:
        first.send(request(chat(stream=True)))
        first.read_until(b"first")
        second.send(request(chat()))
        await_queued(gateway, 1)
        answer = gateway.ask(request(chat()))
        assert (answer.status, answer.error["code"], answer.error["type"]) == (429, "queue_full", "requests")
        assert int(answer.fields["retry-after"]) >= 1
        assert queued(gateway) == 1


def test_service_that_is_removed_refuses_what_waits(gateway: Gateway, engine: FakeEngine) -> None:
    publish(gateway, engine)
    engine.script = Gate()
    with gateway.connect() as first, gateway.connect() as second:
        first.send(request(chat(stream=True)))
        first.read_until(b"first")
        second.send(request(chat()))
        await_queued(gateway, 1)
        gateway.services = {}
        gateway.publish()
        answer = second.answer()
        assert (answer.status, answer.error["code"]) == (404, "service_removed")


def test_what_waits_goes_to_a_replica_that_is_added(
    gateway: Gateway, engine: FakeEngine, own_engine: FakeEngine
) -> None:
    publish(gateway, engine)
    engine.script = Gate()
    with gateway.connect() as first, gateway.connect() as second:
        first.send(request(chat(stream=True)))
        first.read_until(b"first")
        second.send(request(chat()))
        await_queued(gateway, 1)
        publish(gateway, engine, deployments=[deployment(own_engine.path, replica="rpl_2")])
        assert second.answer().status == 200
    assert len(own_engine.requests) == 1


def test_places_hold_over_all_workers(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    """Two workers that see the last place at once may both take it: as many more as there are further workers."""
    running = most = 0

    async def count_running(seen: EngineRequest, answer: Answer) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)  # what the engine takes
        running -= 1
        await answer_chat(seen, answer)

    own_engine.script = count_running
    own_gateway.workers = 2
    own_gateway.services = {SERVICE: service(own_engine.path, deployments=[deployment(own_engine.path, places=3)])}
    own_gateway.publish()
    own_gateway.start()
    own_gateway.await_serving()
    with ExitStack() as stack:
        clients = [stack.enter_context(own_gateway.connect(30.0)) for _ in range(60)]
        for client in clients:
            client.send(request(chat()) * 3)
        for _ in range(3):
            assert {client.answer().status for client in clients} == {200}
    assert len(own_engine.requests) == 180
    assert 3 <= most <= 4


def start(gateway: Gateway, engine: FakeEngine) -> None:
    gateway.services = {SERVICE: service(engine.path, deployments=[deployment(engine.path)])}
    gateway.publish()
    gateway.start()
    gateway.await_serving()


def test_worker_that_ends_serves_what_waits_there(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    start(own_gateway, own_engine)
    gate = own_engine.script = Gate()
    with own_gateway.connect() as first, own_gateway.connect() as second:
        first.send(request(chat(stream=True)))
        first.read_until(b"first")
        own_engine.script = answer_chat
        second.send(request(chat()))
        await_queued(own_gateway, 1)
        os.kill(own_gateway.worker_pid(), signal.SIGTERM)
        eventually(lambda: [status.draining for status in own_gateway.statuses()] == [True], message="it drains")
        gate.open()
        answer = second.answer()
        assert (answer.status, answer.fields.get("connection")) == (200, "close")


def test_places_of_a_killed_worker_are_free_again(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    own_gateway.workers = 2
    start(own_gateway, own_engine)
    own_engine.script = Gate()
    with ExitStack() as stack:
        first = stack.enter_context(own_gateway.connect())
        first.send(request(chat(stream=True)))
        first.read_until(b"first")
        own_engine.script = answer_chat

        def holders() -> list[int]:
            return [index for index, each in enumerate(own_gateway.statuses()) if each.replicas["rpl_1"][0]]

        (holder,) = eventually(holders, message="one worker has the place")
        clients = [stack.enter_context(own_gateway.connect()) for _ in range(16)]  # of them some at either worker
        for client in clients:
            client.send(request(chat()))
        await_queued(own_gateway, 16)
        other = own_gateway.statuses()[1 - holder].replicas["rpl_1"][1]
        assert 0 < other < 16
        os.kill(own_gateway.worker_pid(holder), signal.SIGKILL)
        answered = 0
        for client in clients:
            with suppress(EOFError):
                answered += client.answer().status == 200
        assert answered == other


@pytest.fixture
def two_engines(engine: FakeEngine, own_engine: FakeEngine) -> tuple[FakeEngine, FakeEngine]:
    return engine, own_engine


@pytest.mark.parametrize("status", [503, 429])
def test_another_replica_is_asked_when_one_is_saturated(
    gateway: Gateway, two_engines: tuple[FakeEngine, FakeEngine], status: int
) -> None:
    full, idle = two_engines

    async def refuse(_: EngineRequest, answer: Answer) -> None:
        await answer.json({"error": {"message": "queue is full"}}, status)

    full.script = refuse
    replicas = [wire.Replica("rpl_full", str(full.path)), wire.Replica("rpl_idle", str(idle.path))]
    publish(gateway, full, deployments=[wire.Deployment("dep_1", "main", 100, replicas)], affinity="none")

    for number in range(4):
        answer = gateway.ask(request(chat(), fields={"X-Request-Id": f"elsewhere-{status}-{number}"}))
        assert (answer.status, answer.json) == (200, completion())
        record = gateway.record(f"elsewhere-{status}-{number}")
        assert (record.replica_id, record.prompt_tokens, record.status) == ("rpl_idle", 9, 200)
    assert full.requests, "it was asked"
    assert full.requests[0].body == idle.requests[0].body


def test_saturation_everywhere_is_told(gateway: Gateway, two_engines: tuple[FakeEngine, FakeEngine]) -> None:
    async def refuse(_: EngineRequest, answer: Answer) -> None:
        await answer.json({"error": {"message": "queue is full"}}, 503)

    for engine in two_engines:
        engine.script = refuse
    replicas = [wire.Replica(f"rpl_{number}", str(engine.path)) for number, engine in enumerate(two_engines)]
    publish(gateway, two_engines[0], deployments=[wire.Deployment("dep_1", "main", 100, replicas)])
    answer = gateway.ask(request(chat()))
    assert (answer.status, answer.error["code"]) == (503, "overloaded")
    assert [len(engine.requests) for engine in two_engines] == [1, 1]


# Sleeping services


def sleep(gateway: Gateway, engine: FakeEngine, *, wake_s: float = 60.0) -> None:
    asleep = wire.Deployment("dep_1", "main", 100, [])
    publish(gateway, engine, deployments=[asleep], asleep=True, timeouts=wire.Timeouts(wake_s=wake_s))


def test_request_wakes_a_service_and_waits_for_it(gateway: Gateway, engine: FakeEngine) -> None:
    sleep(gateway, engine)
    demands = Demands(gateway.home)
    with gateway.connect() as client:
        client.send(request(chat(), fields={"X-Request-Id": "woke"}))
        demand = eventually(demands.pending, message="the control plane is told")[SERVICE]
        assert abs(demand.at - time.time()) < 60
        demands.clear(demand)
        publish(gateway, engine)
        answer = client.answer()
    assert (answer.status, answer.json) == (200, completion())
    assert gateway.record("woke").queue_ms > 0
    assert demands.pending() == {}


def test_stream_that_waits_for_a_service_has_comments_until_it_starts(gateway: Gateway, engine: FakeEngine) -> None:
    sleep(gateway, engine)
    with gateway.connect(30.0) as client:
        client.send(request(chat(stream=True), fields={"X-Request-Id": "told"}))
        begun = client.read_until(b": waiting for the service to start\n\n")
        assert begun.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"content-type: text/event-stream" in begun
        publish(gateway, engine)
        rest = client.read_until(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert rest.count(b"HTTP/1.1") == 0, "one head"
        client.send(request(chat()))
        assert client.answer().status == 200, "the connection goes on"
    record = gateway.record("told")
    assert (record.status, record.outcome, record.prompt_tokens, record.completion_tokens) == (200, "completed", 9, 3)
    assert record.queue_ms > 4000


def test_service_that_does_not_start_in_time_is_told_by_status(gateway: Gateway, engine: FakeEngine) -> None:
    """Nobody reads the demand: the control plane is down."""
    sleep(gateway, engine, wake_s=0.5)
    answer = gateway.ask(request(chat(stream=True)))
    assert (answer.status, answer.error["code"]) == (503, "service_not_ready")
    assert "retry-after" in answer.fields


@pytest.mark.parametrize("failure", ["time", "engine", "json"])
def test_stream_that_was_begun_with_comments_tells_of_failures_by_an_event(
    gateway: Gateway, engine: FakeEngine, failure: str
) -> None:
    async def fail(_: EngineRequest, answer: Answer) -> None:
        await answer.json({"error": "broken"}, 500) if failure == "engine" else await answer.json(completion())

    engine.script = fail
    sleep(gateway, engine, wake_s=5.5 if failure == "time" else 60.0)
    with gateway.connect(30.0) as client:
        client.send(request(chat(stream=True), fields={"X-Request-Id": f"failed-{failure}"}))
        client.read_until(b": waiting for the service to start\n\n")
        if failure != "time":
            publish(gateway, engine)
        rest = b""
        while piece := client.receive():
            rest += piece
    assert rest.count(b"data: ") == 1
    assert {"time": b"service_not_ready", "engine": b"engine_error", "json": b"engine_error"}[failure] in rest
    assert b"[DONE]" not in rest
    assert not rest.endswith(b"0\r\n\r\n")
    record = gateway.record(f"failed-{failure}")
    assert record.status >= 500
    assert record.completion_tokens == 0


# Fairness


def flood(stack: ExitStack, gateway: Gateway, count: int) -> list[Connection]:
    clients = [stack.enter_context(gateway.connect(120.0)) for _ in range(count)]
    for client in clients:
        client.send(request(chat()))
    return clients


def test_a_thousand_waiting_requests_of_one_tenant_do_not_hold_up_another(
    own_gateway: Gateway, own_engine: FakeEngine
) -> None:
    """`--log-cli-level=INFO` shows the figures."""
    served_s, places = 0.04, 4

    async def take_time(seen: EngineRequest, answer: Answer) -> None:
        await asyncio.sleep(served_s)
        await answer_chat(seen, answer)

    own_engine.script = take_time
    one = service(own_engine.path, deployments=[deployment(own_engine.path, places=places)], shared_with=["ten_2"])
    own_gateway.services = {SERVICE: one}
    own_gateway.keys[sha256(GUEST)] = key_entry(key_id="key_2", tenant_id="ten_2")
    own_gateway.publish()
    own_gateway.start()
    own_gateway.await_serving()

    def ask(client: Connection) -> tuple[float, int]:
        """Seconds, and how many other requests the engine got from the asking until it got this one."""
        before, asked = len(own_engine.requests), time.monotonic()
        client.send(request(chat(user="guest"), key=GUEST))
        assert client.answer().status == 200
        seconds = time.monotonic() - asked
        later = own_engine.requests[before:]
        return seconds, next(at for at, seen in enumerate(later) if seen.json.get("user") == "guest")

    with ExitStack() as stack:
        guest = stack.enter_context(own_gateway.connect(60.0))
        alone = [ask(guest)[0] for _ in range(10)]
        clients = flood(stack, own_gateway, 1000)
        eventually(lambda: queued(own_gateway) > 800, message="the flood waits")
        beside = [ask(guest) for _ in range(20)]
        waiting = queued(own_gateway)
        assert waiting > 300, "it waited all the while"
        LOG.info(
            "alone %.1f ms, beside 1000 waiting %.1f ms (at most %.1f), %d of them still wait; overtaken by %s",
            1000 * statistics.median(alone),
            1000 * statistics.median([seconds for seconds, _ in beside]),
            1000 * max(seconds for seconds, _ in beside),
            waiting,
            [ahead for _, ahead in beside],
        )
        assert max(ahead for _, ahead in beside) <= 3 * places, "its turn is among the next"
        answers = [client.answer() for client in clients]
        assert [answer.body for answer in answers if answer.status != 200] == []
