"""A listener of many tenants, by real processes: what a hostile key does not reach, and is not told."""

import statistics
import time

import pytest

from tests.plane.fake_engine import FakeEngine
from tests.plane.harness import Gateway, chat, request

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
