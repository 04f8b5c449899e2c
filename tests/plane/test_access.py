"""Who may ask for what, through real processes: keys, models and routes."""

import time

import pytest

from tests.plane.fake_engine import FakeEngine
from tests.plane.harness import SERVICE, Gateway, chat, key_entry, request, service, sha256


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
