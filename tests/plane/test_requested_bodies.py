"""What becomes of a request's body, through real processes: defaults, refused members, bounds."""

from typing import Any

import pytest

from appliance.gateway.plane import wire
from tests.plane.fake_engine import FakeEngine
from tests.plane.harness import SERVICE, Gateway, chat, request, service


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
