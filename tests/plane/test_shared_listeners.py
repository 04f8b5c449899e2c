"""A listener of many services and tenants, by real processes: what a key reaches, also while things change."""

import json
import socket

import msgspec
import pytest

from appliance.gateway.plane import wire
from tests.plane.fake_engine import FakeEngine, Gate
from tests.plane.harness import KEY, TENANT, Gateway, chat, key_entry, request, sha256
from tests.plane.sharing import NARROW, OTHER_KEY, answer_json, ids


def test_service_by_model_and_by_path(shared: Gateway, engine: FakeEngine) -> None:
    for path, model in (
        ("/v1/chat/completions", "gpt-4"),
        ("/v1/chat/completions", "chat"),
        ("/chat/v1/chat/completions", "chat-m"),
        ("/acme.chat/v1/chat/completions", "gpt-4"),
    ):
        assert (
            shared.ask(request(chat(model=model), path=path, fields={"X-Request-Id": f"{path}-{model}"})).status == 200
        )
        assert shared.record(f"{path}-{model}").service_id == "svc_chat"
    assert {seen.line for seen in engine.requests} == {"POST /v1/chat/completions HTTP/1.1"}
    assert {seen.json["model"] for seen in engine.requests} == {"chat-m"}


def test_models_are_exactly_those_that_the_key_may_use(shared: Gateway) -> None:
    assert ids(shared) == ["chat-m", "gpt-4", "tensors-m", "lent-m"]
    assert ids(shared, OTHER_KEY) == ["lent-m", "secret-m"]
    for model in ids(shared):
        assert shared.ask(request(method="GET", path=f"/v1/models/{model}")).json["id"] == model
    assert shared.ask(request(method="GET", path="/v1/models/secret-m")).error["code"] == "model_not_found"
    one = shared.ask(request(method="GET", path="/lent/v1/models", key=OTHER_KEY))
    assert [card["id"] for card in one.json["data"]] == ["lent-m"]


def test_shared_service_is_metered_and_salted_for_the_keys_tenant(shared: Gateway, engine: FakeEngine) -> None:
    answer = shared.ask(request(chat(model="lent-m", cache_salt="salt of rival"), fields={"X-Request-Id": "borrowed"}))

    assert answer.status == 200
    assert engine.requests[0].json["cache_salt"] == "salt of acme"
    record = shared.record("borrowed")
    assert (record.tenant_id, record.key_id, record.service_id) == (TENANT, "key_1", "svc_lent")


def test_narrow_key(shared: Gateway, engine: FakeEngine) -> None:
    assert shared.ask(request(chat(model="gpt-4"), key=NARROW)).status == 200
    for path, model, told in (
        ("/v1/chat/completions", "lent-m", (404, "model_not_found")),
        ("/lent/v1/chat/completions", "lent-m", (404, "service_not_found")),
        ("/v1/completions", "gpt-4", (403, "route_not_allowed")),
        ("/chat/v1/completions", "gpt-4", (403, "route_not_allowed")),
    ):
        answer = shared.ask(request(chat(model=model), path=path, key=NARROW))
        assert (answer.status, answer.error["code"]) == told
    assert shared.ask(request(method="GET", path="/v1/models", key=NARROW)).error["code"] == "route_not_allowed"
    assert len(engine.requests) == 1


@pytest.mark.parametrize(
    ("networks", "status"), [(["127.0.0.0/8"], 200), (["10.0.0.0/8", "::/0"], 401), (["nonsense"], 401)]
)
def test_key_for_a_network(shared: Gateway, networks: list[str], status: int) -> None:
    shared.keys[sha256(KEY)] = key_entry(networks=networks)
    shared.publish()
    for data in (request(chat(model="chat")), request(method="GET", path="/v1/models")):
        answer = shared.ask(data.replace(b"Host:", b"X-Forwarded-For: 10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\nHost:"))
        assert answer.status == status
        if status == 401:
            assert answer.error["code"] == "ip_not_authorized"
            assert "127.0.0.1" in answer.error["message"]


def test_port_of_one_service_lets_in_those_it_is_shared_with(shared: Gateway, engine: FakeEngine) -> None:
    shared.listeners = [wire.Listener("lsn_1", "gwy_1", "127.0.0.1", shared.port, "svc_lent")]
    shared.keys |= {
        sha256("sk-stranger"): key_entry(tenant_id="ten_3"),
        sha256("sk-stranger-expired"): key_entry(tenant_id="ten_3", expires_at=1.0, networks=["10.0.0.0/8"]),
    }
    shared.publish()
    for key in (KEY, OTHER_KEY):
        assert shared.ask(request(chat(model="lent-m"), key=key)).status == 200
        assert ids(shared, key) == ["lent-m"]
    answers = [shared.ask(request(chat(), key=key)) for key in ("sk-unknown", "sk-stranger", "sk-stranger-expired")]
    assert [answer.status for answer in answers] == [401, 401, 401]
    assert len({answer.body for answer in answers}) == 1
    assert [seen.json["cache_salt"] for seen in engine.requests] == ["salt of acme", "salt of rival"]


def test_defaults_change_live_and_a_running_answer_goes_on(shared: Gateway, engine: FakeEngine) -> None:
    gate = Gate()
    engine.script = gate
    with shared.connect() as running, shared.connect() as waiting:
        running.send(request(chat(model="chat", stream=True)))
        running.read_until(b"first")
        data = request(chat(model="chat"))
        waiting.send(data[:-5])
        changed = wire.SamplingDefaults(temperature=0.125, system_prompt="Changed.", max_tokens_ceiling=9)
        shared.services["svc_chat"] = msgspec.structs.replace(shared.services["svc_chat"], defaults=changed)
        shared.publish()
        engine.script = answer_json
        assert shared.ask(request(chat(model="chat"))).status == 200
        waiting.send(data[-5:])
        assert waiting.answer().status == 200
        gate.open()
        assert b"[DONE]" in running.read_until(b"0\r\n\r\n")
    first, second, _ = (seen.json for seen in engine.requests)
    assert "temperature" not in first
    assert (second["temperature"], second["max_tokens"]) == (0.125, 9)
    assert second["messages"][0] == {"role": "system", "content": "Changed."}


def test_service_that_goes_away_while_its_body_comes_is_no_fault(shared: Gateway) -> None:
    with shared.connect() as connection:
        data = request(chat(model="chat"))
        connection.send(data[:-5])
        del shared.services["svc_chat"]
        shared.publish()
        connection.send(data[-5:])
        assert connection.answer().status in (200, 404, 503)
        connection.send(data)
        assert connection.answer().status == 404


def test_every_refusal_has_the_whole_envelope(shared: Gateway) -> None:
    answers = [
        shared.ask(request(chat(), path="/nowhere")),
        shared.ask(request(chat(), path="/v1/nowhere")),
        shared.ask(request(method="DELETE", path="/v1/chat/completions")),
        shared.ask(request(chat(model="chat"), fields={"Content-Encoding": "gzip"})),
        shared.ask(request(chat(), key=None)),
        shared.ask(request(method="GET", path="/")),
    ]
    with socket.create_connection(("127.0.0.1", shared.port), 5) as raw:
        raw.sendall(b"GARBAGE\r\n\r\n")
        data = b"".join(iter(lambda: raw.recv(65536), b""))
    bodies = [answer.json for answer in answers] + [json.loads(data.partition(b"\r\n\r\n")[2])]
    for body in bodies:
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["code"]
        assert body["error"]["type"] in ("invalid_request_error", "server_error")
    assert [answer.status for answer in answers] == [404, 404, 405, 415, 401, 404]
