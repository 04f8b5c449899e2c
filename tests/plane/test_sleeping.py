"""Services that sleep, through real processes: a request wakes them and waits."""

import time

import pytest

from appliance.gateway.demand import Demands
from appliance.gateway.plane import wire
from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine, completion
from tests.plane.harness import SERVICE, Gateway, chat, request
from tests.plane.queues import publish
from tests.support.waiting import eventually


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
