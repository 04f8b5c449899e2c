"""Replicas that are gone, full or broken, through real processes: another is tried, or the client is told."""

from typing import Any

import pytest

from appliance.gateway.plane import wire
from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine, Gate, hold
from tests.plane.harness import SERVICE, Gateway, chat, request, service


def test_no_replica_is_503_with_retry_after(gateway: Gateway) -> None:
    plain = gateway.services[SERVICE]
    gateway.services = {SERVICE: service(plain.deployments[0].replicas[0].socket, deployments=[])}  # type: ignore[arg-type]
    gateway.publish()

    answer = gateway.ask(request(chat()))

    assert (answer.status, answer.error["code"], answer.error["type"]) == (503, "no_replica", "server_error")
    assert int(answer.fields["retry-after"]) > 0


def test_another_replica_is_tried_when_the_first_cannot_be_connected_to(gateway: Gateway, engine: FakeEngine) -> None:
    dead = [wire.Replica(f"rpl_dead_{n}", f"{engine.path}.dead{n}") for n in range(5)]
    alive = wire.Replica("rpl_alive", str(engine.path))
    deployments = [wire.Deployment("dep_1", "main", 100, [*dead, alive])]
    gateway.services = {SERVICE: service(engine.path, deployments=deployments)}
    gateway.publish()

    answer = gateway.ask(request(chat(), fields={"X-Request-Id": "retried"}))

    assert answer.status == 200
    assert gateway.record("retried").replica_id == "rpl_alive"
    assert len(engine.requests) == 1


def test_socket_that_is_a_link_or_anothers_is_not_used(gateway: Gateway, engine: FakeEngine) -> None:
    link = engine.path.with_name("link.sock")
    link.unlink(missing_ok=True)
    link.symlink_to(engine.path)
    for replica in (wire.Replica("rpl_link", str(link)), wire.Replica("rpl_owner", str(engine.path), 12345)):
        gateway.services = {
            SERVICE: service(engine.path, deployments=[wire.Deployment("dep_1", "main", 100, [replica])])
        }
        gateway.publish()
        assert gateway.ask(request(chat())).status == 503
    assert engine.requests == []


def test_replica_that_is_full_takes_no_more(gateway: Gateway, engine: FakeEngine) -> None:
    replica = wire.Replica("rpl_full", str(engine.path), max_in_flight=1)
    deployments = [wire.Deployment("dep_1", "main", 100, [replica])]
    gateway.services = {SERVICE: service(engine.path, deployments=deployments, max_queued=0)}
    gateway.publish()

    engine.script = Gate()
    with gateway.connect() as first:
        first.send(request(chat(stream=True)))
        first.read_until(b"first")
        second = gateway.ask(request(chat()))
        assert (second.status, second.error["code"]) == (503, "overloaded")


@pytest.mark.parametrize(
    ("status", "body", "told", "message"),
    [
        (400, {"error": {"message": "max_tokens\nis too large"}}, 400, "max_tokens is too large"),
        (422, {"detail": "wrong"}, 400, "wrong"),
        (400, {"message": "see /usr/lib/engine/x.py for more"}, 400, "see [path] for more"),
        (400, b"<html>", 400, "The engine refused the request as invalid."),
        (500, {"error": {"message": "Traceback: secret"}}, 502, "The engine failed to answer the request."),
        (503, {"error": "loading"}, 503, "The engine is overloaded; try again shortly."),
        (401, {"error": "no"}, 502, "The engine failed to answer the request."),
        (307, {"error": "elsewhere"}, 502, "The engine failed to answer the request."),
    ],
)
def test_errors_of_the_engine_are_rewritten(
    gateway: Gateway, engine: FakeEngine, status: int, body: Any, told: int, message: str
) -> None:
    async def fail(_: EngineRequest, answer: Answer) -> None:
        await answer.json(body, status)

    engine.script = fail
    answer = gateway.ask(request(chat(), fields={"X-Request-Id": f"error-{status}-{hash(message)}"}))

    assert (answer.status, answer.error["message"]) == (told, message)
    record = gateway.record(f"error-{status}-{hash(message)}")
    assert (record.prompt_tokens, record.completion_tokens) == (0, 0)


def test_engine_that_closes_without_an_answer_is_502(gateway: Gateway, engine: FakeEngine) -> None:
    async def close(_: EngineRequest, answer: Answer) -> None:
        answer.abort()

    engine.script = close
    answer = gateway.ask(request(chat(), fields={"X-Request-Id": "closed"}))

    assert (answer.status, answer.error["code"]) == (502, "engine_unavailable")
    assert gateway.record("closed").outcome == "upstream_cut"


def test_engine_that_says_nothing_is_504(gateway: Gateway, engine: FakeEngine) -> None:
    gateway.services = {SERVICE: service(engine.path, timeouts=wire.Timeouts(first_byte_s=0.3))}
    gateway.publish()

    engine.script = hold
    answer = gateway.ask(request(chat(), fields={"X-Request-Id": "silent"}))

    assert (answer.status, answer.error["code"]) == (504, "engine_timeout")
    assert engine.requests[0].gone.wait(2)
    record = gateway.record("silent")
    assert (record.outcome, record.estimated) == ("timed_out", True)
    assert record.prompt_tokens > 0
    assert record.tail_tokens > 0


def test_answer_with_a_broken_framing_is_502(gateway: Gateway, engine: FakeEngine) -> None:
    async def broken(_: EngineRequest, answer: Answer) -> None:
        await answer.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello")

    engine.script = broken
    assert gateway.ask(request(chat())).status == 502
