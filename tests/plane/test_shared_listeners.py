"""A listener of many services and tenants, by real processes: what a key reaches, what a hostile one does not."""

import json
import socket
import statistics
import time
from typing import Any

import msgspec
import openai
import pytest

from appliance.gateway.plane import wire
from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine, Gate, completion
from tests.plane.harness import KEY, TENANT, Gateway, chat, key_entry, request, service, sha256

OTHER_KEY = "sk-other-0123456789"
V2 = ["GET /v2/models/{model}", "GET /v2/models/{model}/ready", "POST /v2/models/{model}/infer", "GET /v2/health/ready"]
NARROW = "sk-narrow-0123456789"


def of(engine: FakeEngine, name: str, **changes: Any) -> wire.ServiceShard:
    defaults = {"id": f"svc_{name}", "name": name, "served_model": f"{name}-m", "gateway_id": "gwy_1"}
    return service(engine.path, **{**defaults, **changes})


@pytest.fixture
def shared(gateway: Gateway, engine: FakeEngine) -> Gateway:
    """Tenant acme with `chat` and `tensors`, tenant rival with `secret`, which it shares with nobody, and `lent`."""
    rival = {"tenant_id": "ten_2", "tenant_name": "rival"}
    services = [
        of(engine, "chat", aliases=["gpt-4"]),
        of(engine, "tensors", routes=[*V2, "POST /predict", "POST /upload raw query"]),
        of(engine, "secret", **rival, cache_salt="salt of rival"),
        of(engine, "lent", **rival, cache_salt="salt of rival", shared_with=[TENANT]),
    ]
    gateway.listeners = [wire.Listener("lsn_1", "gwy_1", "127.0.0.1", gateway.port)]
    gateway.services = {each.id: each for each in services}
    gateway.keys |= {
        sha256(OTHER_KEY): key_entry(key_id="key_2", tenant_id="ten_2"),
        sha256(NARROW): key_entry(key_id="key_3", services=["svc_chat"], routes=["POST /v1/chat/completions"]),
    }
    gateway.tenants = {TENANT: wire.TenantEntry("acme", cache_salt="salt of acme"), "ten_2": wire.TenantEntry("rival")}
    gateway.publish()
    return gateway


def ids(gateway: Gateway, key: str = KEY) -> list[str]:
    return [card["id"] for card in gateway.ask(request(method="GET", path="/v1/models", key=key)).json["data"]]


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


# Hostile


HIDDEN = [
    ("/secret/v1/chat/completions", "x"),
    ("/rival.secret/v1/chat/completions", "x"),
    ("/v1/chat/completions", "secret"),
    ("/v1/chat/completions", "secret-m"),
    ("/v1/chat/completions", "rival.secret"),
    ("/secret/v1/models", "x"),
    ("/v2/models/secret-m/infer", "x"),
]


@pytest.mark.parametrize(("path", "model"), HIDDEN)
def test_anothers_service_is_answered_like_one_that_does_not_exist(
    shared: Gateway, engine: FakeEngine, path: str, model: str
) -> None:
    there = shared.ask(request(chat(model=model), path=path))
    del shared.services["svc_secret"]
    shared.publish()
    gone = shared.ask(request(chat(model=model), path=path))

    assert there.status == gone.status == 404
    assert there.body == gone.body
    assert set(there.fields) == set(gone.fields)
    assert engine.requests == []


@pytest.mark.alone
def test_time_tells_nothing_of_anothers_service(shared: Gateway) -> None:
    took: dict[str, list[float]] = {"secret-m": [], "nobodys": []}
    with shared.connect() as connection:
        for _ in range(300):
            for model, times in took.items():
                data = request(chat(model=model))
                started = time.perf_counter()
                connection.send(data)
                assert connection.answer().status == 404
                times.append(time.perf_counter() - started)
    fast, slow = sorted(statistics.median(times) for times in took.values())
    assert slow < 1.5 * fast + 0.0002


@pytest.mark.parametrize(
    "path",
    [
        "/chat/../secret/v1/chat/completions",
        "/chat//v1/chat/completions",
        "//chat/v1/chat/completions",
        "/chat/./v1/chat/completions",
        "/%63hat/v1/chat/completions",
        "/chat%2fv1/chat/completions",
        "/chat/v1/chat/completions/",
        "/chat/metrics",
        "/chat/v1/chat/completions;x",
        "/chat/chat/v1/chat/completions",
        "/CHAT/v1/chat/completions",
        "/chat\\v1/chat/completions",
        "/v2/models/tensors-m/../x/infer",
        "/tensors/v2/models/../infer",
        "/tensors/v2/models/tensors-m/infer/../../../metrics",
        "/tensors/v2/models/%2e%2e/infer",
    ],
)
def test_tricks_with_paths_reach_nothing(shared: Gateway, engine: FakeEngine, path: str) -> None:
    assert shared.ask(request(chat(model="chat"), path=path)).status == 404
    assert engine.requests == []


@pytest.mark.parametrize(
    "model",
    ["chat\r\nx: y", "chat\0", "chat ", "Chat", "../secret", "s\u0435cret", "\U0001f600" * 100, "a" * 100_000, ""],
)
def test_odd_models_are_not_found(shared: Gateway, engine: FakeEngine, model: str) -> None:
    answer = shared.ask(request(chat(model=model)))
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert len(answer.body) < 3000
    assert engine.requests == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Request-Id", "a\tb"),
        ("X-Request-Id", "a b"),
        ("X-Request-Id", "x" * 129),
        ("X-Request-Id", "é"),
        ("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01,evil"),
        ("Traceparent", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"),
        ("Tracestate", "a=b"),
    ],
)
def test_malformed_ids_go_nowhere(shared: Gateway, engine: FakeEngine, name: str, value: str) -> None:
    answer = shared.ask(request(chat(model="chat"), fields={name: value}))
    assert answer.status == 200
    assert answer.fields["x-request-id"] != value
    (seen,) = engine.requests
    assert value not in {field for _, field in seen.fields}


def test_header_that_smuggles_a_line_is_refused(shared: Gateway, engine: FakeEngine) -> None:
    for raw in (
        b"x-request-id: a\nx-evil: 1",
        b"x-request-id: a\rb",
        b"traceparent: a\r\n folded",
        b"x-request-id: a\0b",
    ):
        data = request(chat(model="chat")).replace(b"Host: gateway", b"Host: gateway\r\n" + raw)
        assert shared.ask(data).status == 400
    assert engine.requests == []


# Protocols


def test_open_inference_protocol(shared: Gateway, engine: FakeEngine) -> None:
    assert shared.ask(request(method="GET", path="/v2/health/live")).json == {"live": True}
    assert shared.ask(request(method="GET", path="/v2")).json["extensions"] == ["binary_tensor_data"]
    assert shared.ask(request(method="GET", path="/v2", key=None)).json == {
        "error": "You did not provide an API key. Send a key of this service's tenant as 'Authorization: Bearer <key>'."
    }
    assert shared.ask(request(method="GET", path="/v2/models/tensors/ready")).status == 200
    missing = shared.ask(request(method="GET", path="/v2/models/none"))
    assert (missing.status, list(missing.json)) == (404, ["error"])
    assert shared.ask(request(b"{}", path="/tensors/v2/models/tensors-m/infer")).status == 200
    assert [seen.line for seen in engine.requests] == [
        "GET /v2/models/tensors-m/ready HTTP/1.1",
        "POST /v2/models/tensors-m/infer HTTP/1.1",
    ]


def test_binary_tensors_both_ways(shared: Gateway, engine: FakeEngine) -> None:
    header = b'{"outputs":[]}'

    async def infer(_: EngineRequest, answer: Answer) -> None:
        await answer.raw(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"
            b"content-length: %d\r\n\r\n%b\x00\xff" % (len(header), len(header) + 2, header)
        )

    engine.script = infer
    answer = shared.ask(
        request(
            b'{"inputs":[]}\x00\x01\x02\xff',
            path="/v2/models/tensors-m/infer",
            fields={"Inference-Header-Content-Length": "13", "Content-Type": "application/octet-stream"},
        )
    )
    assert answer.body == header + b"\x00\xff"
    assert answer.fields["inference-header-content-length"] == str(len(header))
    (seen,) = engine.requests
    assert seen.body == b'{"inputs":[]}\x00\x01\x02\xff'
    assert seen.field("inference-header-content-length") == "13"
    assert seen.field("content-type") == "application/octet-stream"


def test_engines_error_on_a_v2_route_has_the_protocols_form(shared: Gateway, engine: FakeEngine) -> None:
    async def fail(_: EngineRequest, answer: Answer) -> None:
        await answer.json({"error": "wrong shape"}, 400)

    engine.script = fail
    answer = shared.ask(request(b"{}", path="/v2/models/tensors-m/infer"))
    assert (answer.status, answer.json) == (400, {"error": "wrong shape"})


async def answer_json(_: EngineRequest, answer: Answer) -> None:
    await answer.json(completion())


def test_routes_of_a_runtimes_own(shared: Gateway, engine: FakeEngine) -> None:
    engine.script = answer_json
    assert shared.ask(request(b"[1, 2]", path="/tensors/predict")).status == 200
    assert shared.ask(request(b"\x00", path="/tensors/predict")).status == 400
    upload = request(b"\x00\xff", path="/tensors/upload?a=%20b", fields={"Content-Type": "image/png"})
    assert shared.ask(upload).status == 200
    assert shared.ask(request(b"[]", path="/tensors/predict?a=b")).error["code"] == "unexpected_query"
    assert [seen.line.split(" ")[1] for seen in engine.requests] == ["/predict", "/upload?a=%20b"]
    assert engine.requests[1].field("content-type") == "image/png"


def test_official_sdk_with_one_address_for_all_models(shared: Gateway, engine: FakeEngine) -> None:
    shared.services["svc_chat"] = of(engine, "chat", served_model="org/chat:7b")
    shared.publish()
    address = f"http://127.0.0.1:{shared.port}"
    messages: Any = [{"role": "user", "content": "hi"}]
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
        listed = [model.id for model in client.models.list()]
        assert listed == ["org/chat:7b", "tensors-m", "lent-m"]
        assert [client.models.retrieve(model).id for model in listed] == listed
        assert client.chat.completions.create(model=listed[0], messages=messages).choices
        with pytest.raises(openai.NotFoundError, match="does not exist here or you do not have access"):
            client.chat.completions.create(model="secret-m", messages=messages)
        chat_only = client.with_options(base_url=f"{address}/rival.lent/v1")
        assert list(chat_only.chat.completions.create(model="lent-m", messages=messages, stream=True))


# Changes under way


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
