"""Full replicas, through real processes: what waits, for how long, and in which order."""

import asyncio
import logging
import os
import signal
import statistics
import time
from contextlib import ExitStack, suppress

import pytest

from appliance.gateway.plane import wire
from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine, Gate, answer_chat, completion
from tests.plane.harness import SERVICE, Connection, Gateway, chat, key_entry, request, service, sha256
from tests.plane.queues import await_queued, deployment, publish, queued, taken
from tests.support.waiting import eventually

LOG = logging.getLogger(__name__)
GUEST = "sk-guest"


def test_request_waits_for_a_place_and_tells_how_long(gateway: Gateway, engine: FakeEngine) -> None:
    publish(gateway, engine)
    gate = engine.script = Gate()
    with taken(gateway), gateway.connect() as second:
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
    with taken(gateway) as first:
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
    with taken(gateway):
        answer = gateway.ask(request(chat()))
    assert (answer.status, answer.error["code"], answer.error["type"]) == (503, "overloaded", "server_error")
    assert int(answer.fields["retry-after"]) >= 1


def test_tenant_that_fills_the_queue_is_told_to_send_less(gateway: Gateway, engine: FakeEngine) -> None:
    publish(gateway, engine, max_queued=1)
    engine.script = Gate()
    with taken(gateway), gateway.connect() as second:
        second.send(request(chat()))
        await_queued(gateway, 1)
        answer = gateway.ask(request(chat()))
        assert (answer.status, answer.error["code"], answer.error["type"]) == (429, "queue_full", "requests")
        assert int(answer.fields["retry-after"]) >= 1
        assert queued(gateway) == 1


def test_service_that_is_removed_refuses_what_waits(gateway: Gateway, engine: FakeEngine) -> None:
    publish(gateway, engine)
    engine.script = Gate()
    with taken(gateway), gateway.connect() as second:
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
    with taken(gateway), gateway.connect() as second:
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
    with taken(own_gateway), own_gateway.connect() as second:
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
        stack.enter_context(taken(own_gateway))
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
