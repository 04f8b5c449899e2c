"""Whole requests through real processes: who may ask, what reaches the engine, what comes back, what it costs."""

import asyncio
import time
from typing import Any

import pytest

from appliance.gateway.plane import wire
from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine, Gate, completion, hold
from tests.plane.harness import SERVICE, Gateway, chat, key_entry, request, service, sha256
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


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        (None, 401, "invalid_api_key"),
        ("sk-wrong", 401, "invalid_api_key"),
        ("sk-expired", 401, "invalid_api_key"),
        ("sk-other-tenant", 401, "invalid_api_key"),
        ("sk-no-scope", 403, "insufficient_scope"),
        ("sk-other-service", 403, "service_not_allowed"),
        ("sk-this-service", 200, None),
    ],
)
def test_keys(gateway: Gateway, engine: FakeEngine, key: str | None, status: int, code: str | None) -> None:
    gateway.keys |= {
        sha256("sk-expired"): key_entry(expires_at=time.time() - 1),
        sha256("sk-other-tenant"): key_entry(tenant_id="ten_2"),
        sha256("sk-no-scope"): key_entry(scopes=["management"]),
        sha256("sk-other-service"): key_entry(services=["svc_2"]),
        sha256("sk-this-service"): key_entry(services=["svc_1"]),
    }
    gateway.publish()

    answer = gateway.ask(request(chat(), key=key))

    assert answer.status == status
    if code is not None:
        assert answer.error["code"] == code
        assert engine.requests == []


def test_key_of_another_tenant_is_answered_like_an_unknown_one(gateway: Gateway) -> None:
    gateway.keys[sha256("sk-other-tenant")] = key_entry(tenant_id="ten_2")
    gateway.publish()

    unknown, foreign = (gateway.ask(request(chat(), key=key)) for key in ("sk-unknown", "sk-other-tenant"))

    volatile = ("x-request-id", "date")
    assert unknown.body == foreign.body
    assert {name: value for name, value in unknown.fields.items() if name not in volatile} == {
        name: value for name, value in foreign.fields.items() if name not in volatile
    }


def test_revoked_key_dies_with_the_next_snapshot(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.send(request(chat()))
        assert connection.answer().status == 200
        gateway.keys = {}
        gateway.publish()
        connection.send(request(chat()))
        assert connection.answer().status == 401


def test_models_are_answered_by_the_gateway(gateway: Gateway, engine: FakeEngine) -> None:
    gateway.services = {SERVICE: service(engine.path, aliases=["gpt-4"], created_at=5)}
    gateway.publish()

    listed = gateway.ask(request(method="GET", path="/v1/models"))
    one = gateway.ask(request(method="GET", path="/v1/models/gpt-4"))
    missing = gateway.ask(request(method="GET", path="/v1/models/gpt-5"))

    assert listed.json == {
        "object": "list",
        "data": [
            {"id": "m", "object": "model", "created": 5, "owned_by": "acme"},
            {"id": "gpt-4", "object": "model", "created": 5, "owned_by": "acme"},
        ],
    }
    assert one.json == listed.json["data"][1]
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")
    assert gateway.ask(request(method="GET", path="/v1/models", key=None)).status == 401
    assert engine.requests == []


def test_unknown_model_is_404_and_an_alias_is_the_engines_own_name(gateway: Gateway, engine: FakeEngine) -> None:
    gateway.services = {SERVICE: service(engine.path, aliases=["gpt-4"])}
    gateway.publish()

    unknown = gateway.ask(request(chat(model="nope")))
    assert (unknown.status, unknown.error["code"], unknown.error["param"]) == (404, "model_not_found", "model")
    assert gateway.ask(request(chat(model="gpt-4"))).status == 200
    assert [seen.json["model"] for seen in engine.requests] == ["m"]


def test_public_paths_need_no_key(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.answer(head_only=True).status == 200
        connection.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = connection.answer()
        assert (answer.status, answer.body) == (200, b"ok\n")


@pytest.mark.parametrize(
    "path",
    ["/metrics", "/tokenize", "//v1/chat/completions", "/v1/chat%2fcompletions", "/v1/../v1/chat/completions", "/"],
)
def test_what_is_not_listed_does_not_exist(gateway: Gateway, engine: FakeEngine, path: str) -> None:
    assert gateway.ask(request(chat(), path=path)).status == 404
    assert gateway.ask(request(chat(), path=path, key=None)).status == 401
    assert engine.requests == []


def test_method_that_is_not_listed(gateway: Gateway) -> None:
    answer = gateway.ask(request(method="GET"))

    assert (answer.status, answer.fields["allow"]) == (405, "POST")


def test_listed_get_route_is_forwarded(gateway: Gateway, engine: FakeEngine) -> None:
    assert gateway.ask(request(method="GET", path="/v1/engine-info")).status == 200
    assert engine.requests[0].line == "GET /v1/engine-info HTTP/1.1"


def test_defaults_are_inserted_only_where_the_caller_set_none(gateway: Gateway, engine: FakeEngine) -> None:
    defaults = wire.SamplingDefaults(
        temperature=0.25, top_p=0.5, repetition_penalty=1.5, system_prompt="Be brief.", max_tokens_ceiling=50
    )
    gateway.services = {SERVICE: service(engine.path, defaults=defaults, cache_salt="salt")}
    gateway.publish()

    gateway.ask(request(chat(temperature=0.75, cache_salt="stolen")))
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "hi"}]
    gateway.ask(request(chat(messages=own, top_p=None, max_tokens=7)))

    first, second = (seen.json for seen in engine.requests)
    assert first == chat(
        temperature=0.75,
        cache_salt="salt",
        top_p=0.5,
        repetition_penalty=1.5,
        max_tokens=50,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
    )
    assert (second["messages"], second["top_p"], second["max_tokens"]) == (own, 0.5, 7)


def test_sampling_defaults_stay_away_from_embeddings(gateway: Gateway, engine: FakeEngine) -> None:
    gateway.services = {SERVICE: service(engine.path, defaults=wire.SamplingDefaults(temperature=0.25))}
    gateway.publish()

    gateway.ask(request({"model": "m", "input": "x"}, path="/v1/embeddings"))

    assert engine.requests[0].json == {"model": "m", "input": "x"}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
        ({"mm_processor_kwargs": {}}, "mm_processor_kwargs"),
        ({"kv_transfer_params": {}}, "kv_transfer_params"),
        ({"priority": -1}, "priority"),
        ({"n": 1000}, "n"),
        ({"n": "many"}, "n"),
        ({"max_tokens": 51}, "max_tokens"),
        ({"max_completion_tokens": 51}, "max_completion_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stream": True, "stream_options": 5}, "stream_options"),
        ({"model": 5}, "model"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"schema": "x" * 300_000}}, "response_format"),
    ],
)
def test_members_that_must_not_reach_an_engine(
    gateway: Gateway, engine: FakeEngine, members: dict[str, Any], param: str
) -> None:
    gateway.services = {SERVICE: service(engine.path, defaults=wire.SamplingDefaults(max_tokens_ceiling=50))}
    gateway.publish()

    answer = gateway.ask(request(chat(**members)))

    assert (answer.status, answer.error["param"]) == (400, param)
    assert engine.requests == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"5",
        b'{"model":"m"',
        b'{"model":"m"} x',
        b'{"model":"m","a":NaN}',
        b'{"model":"m","a":"\xff"}',
        b'{"model":"m","a":' + b"[" * 65 + b"]" * 65 + b"}",
        b'{"model":"m","a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    ],
)
def test_bodies_that_cannot_be_understood(gateway: Gateway, engine: FakeEngine, body: bytes) -> None:
    assert gateway.ask(request(body)).status == 400
    assert engine.requests == []


def test_member_that_comes_twice_reaches_the_engine_once_as_it_was_checked(
    gateway: Gateway, engine: FakeEngine
) -> None:
    gateway.ask(request(b'{"model":"other","messages":[],"model":"m"}'))

    assert engine.requests[0].body.count(b'"model"') == 1
    assert engine.requests[0].json["model"] == "m"


def test_body_too_large_is_refused_before_it_is_sent(gateway: Gateway, engine: FakeEngine) -> None:
    gateway.services = {SERVICE: service(engine.path, max_body_bytes=1000)}
    gateway.publish()
    with gateway.connect() as connection:
        head = request(chat()).partition(b"\r\n\r\n")[0]
        connection.send(head.replace(b"Content-Length: ", b"Content-Length: 99999") + b"\r\n\r\n")
        answer = connection.answer()
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")


def test_endless_chunked_body_is_refused_at_the_limit(gateway: Gateway, engine: FakeEngine) -> None:
    gateway.services = {SERVICE: service(engine.path, max_body_bytes=10_000)}
    gateway.publish()
    with gateway.connect() as connection:
        connection.send(request(method="POST", fields={"Transfer-Encoding": "chunked"}))
        for _ in range(11):
            connection.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert connection.answer().status == 413
    assert engine.requests == []


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
