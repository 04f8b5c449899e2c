"""Whole requests through real processes: what reaches the engine, what comes back, what it costs."""

import asyncio

from appliance.gateway.plane import wire
from tests.plane.fake_engine import FakeEngine, completion, hold
from tests.plane.harness import SERVICE, Gateway, chat, request, service
from tests.support.waiting import eventually


def test_json_answer_comes_back_unchanged_and_is_metered(gateway: Gateway, engine: FakeEngine) -> None:
    answer = gateway.ask(request(chat(), fields={"X-Request-Id": "json-1"}))

    assert (answer.status, answer.json) == (200, completion())
    assert answer.fields["x-request-id"] == "json-1"
    assert answer.fields["content-type"] == "application/json"
    assert "server" not in answer.fields
    record = gateway.record("json-1")
    assert (record.prompt_tokens, record.completion_tokens, record.estimated, record.tail_tokens) == (9, 12, False, 0)
    assert (record.outcome, record.status, record.stream, record.route) == (
        "completed",
        200,
        False,
        "POST /v1/chat/completions",
    )
    assert (record.tenant_id, record.key_id, record.service_id, record.deployment_id, record.replica_id) == (
        "ten_1",
        "key_1",
        "svc_1",
        "dep_1",
        "rpl_1",
    )
    assert record.bytes_out == len(answer.body)
    assert record.ttft_ms is not None
    assert 0 <= record.ttft_ms <= record.duration_ms


def test_engine_gets_a_request_written_anew(gateway: Gateway, engine: FakeEngine) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    gateway.ask(
        request(
            chat(),
            path="/v1/chat/completions?api-version=1",
            fields={"X-Request-Id": "mine", "X-Forwarded-For": "1.2.3.4", "Cookie": "a=b", "Traceparent": trace},
        )
    )

    (seen,) = engine.requests
    assert seen.line == "POST /v1/chat/completions HTTP/1.1"
    assert {name for name, _ in seen.fields} == {
        "host",
        "content-type",
        "content-length",
        "x-request-id",
        "traceparent",
    }
    assert seen.field("traceparent") == trace
    assert seen.field("x-request-id") != "mine"


def test_listed_get_route_is_forwarded(gateway: Gateway, engine: FakeEngine) -> None:
    assert gateway.ask(request(method="GET", path="/v1/engine-info")).status == 200
    assert engine.requests[0].line == "GET /v1/engine-info HTTP/1.1"


def test_status_shows_requests_in_flight_and_then_none(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = hold
    with gateway.connect() as connection:
        connection.send(request(chat()))
        eventually(lambda: gateway.statuses()[0].replicas["rpl_1"] == (1, 0))
        gateway.services = {SERVICE: service(engine.path, deployments=[])}
        version = gateway.publish()
        (status,) = gateway.statuses()
        assert (status.applied_version, status.replicas["rpl_1"], status.in_flight_total) == (version, (1, 0), 1)
    eventually(lambda: gateway.statuses()[0].in_flight_total == 0)
    assert "rpl_1" not in gateway.statuses()[0].replicas


def test_metrics_tell_what_happened(gateway: Gateway) -> None:
    gateway.ask(request(chat()))
    gateway.ask(request(chat(), key="sk-wrong"))

    text = asyncio.run(wire.scrape(gateway.home, 0))

    merged = wire.merge_expositions([text, text.replace('worker="0"', 'worker="1"')])
    for exposition in (text, merged):
        assert exposition.count("# TYPE appliance_gateway_requests_total counter") == 1
    assert 'service="svc_1",deployment="dep_1",status="200",outcome="completed"' in text
    assert 'appliance_gateway_refused_total{worker="0",code="invalid_api_key"}' in text
    assert merged.count("appliance_gateway_snapshot_version{") == 2
