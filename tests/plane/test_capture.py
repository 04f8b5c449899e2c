"""Captures: what is kept of a request, for whom, and that it never gets in the way of the answer."""

import json
from concurrent.futures import Executor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.gateway.plane import capture as capturing
from appliance.gateway.plane import wire
from appliance.gateway.plane.access_log import AccessLog
from appliance.gateway.plane.capture import Captured, CaptureStore, capture_record, is_sampled
from appliance.gateway.plane.frames import read_captures
from appliance.gateway.plane.ledger import Ledger
from appliance.gateway.plane.prepared import Prepared
from appliance.gateway.plane.reassembly import reassembled
from appliance.gateway.plane.settled import Books
from tests.plane import parts
from tests.plane.fake_engine import DONE, Answer, EngineRequest, FakeEngine, chunk_event, event, final_event
from tests.plane.harness import SERVICE, Gateway, chat, request, running, service, sha256
from tests.plane.records import LOG, metrics_of, record
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from appliance.gateway.plane.context import Context
    from appliance.gateway.plane.spool import Spool

ALL = wire.Capture(share=1.0)


def captures(gateway: Gateway) -> dict[str, wire.CaptureRecord]:
    """What is sealed, by request id."""
    segments = wire.sealed_segments(gateway.home / "gateway" / "capture")
    return {each.request_id: each for segment in segments for each in read_captures(segment)}


def captured(gateway: Gateway, request_id: str) -> wire.CaptureRecord:
    eventually(lambda: request_id in captures(gateway), 20, message=f"{request_id} is captured")
    return captures(gateway)[request_id]


def test_stream_is_kept_as_the_one_answer_that_it_amounts_to(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    own_gateway.services = {SERVICE: service(own_engine.path, capture=ALL, cache_salt="salt-of-the-tenant")}
    with running(own_gateway) as gateway:
        with gateway.connect() as connection:
            connection.send(request(chat(stream=True), fields={"X-Request-Id": "streamed"}))
            sent = connection.answer().body
        plain = gateway.ask(request(chat(temperature=0.5), fields={"X-Request-Id": "plain"}))
        kept = captured(gateway, "streamed")
        whole = captured(gateway, "plain")
    assert sent.endswith(DONE)
    (choice,) = json.loads(kept.answer)["choices"]
    assert choice["message"]["content"] == "Hello."
    assert (kept.is_cut, kept.stream, kept.outcome, kept.status) == (False, True, "completed", 200)
    assert json.loads(whole.answer) == plain.json
    assert json.loads(whole.request)["temperature"] == 0.5
    assert "salt" not in whole.request + kept.request
    assert gateway.record("plain").record_id == whole.record_id


def test_cut_answer_is_kept_with_what_came_and_marked(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    async def stall(seen: EngineRequest, answer: Answer) -> None:
        await answer.stream_head()
        await answer.chunk(chunk_event("half", 9, 1))
        await seen.gone()

    own_engine.script = stall
    own_gateway.services = {SERVICE: service(own_engine.path, capture=ALL)}
    with running(own_gateway) as gateway:
        with gateway.connect() as connection:
            connection.send(request(chat(stream=True), fields={"X-Request-Id": "cut"}))
            connection.read_until(b"half")
        kept = captured(gateway, "cut")
    assert (kept.is_cut, kept.outcome) == (True, "client_cut")
    assert json.loads(kept.answer)["choices"][0]["message"]["content"] == "half"


def test_tenants_canaries_stay_apart(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    """I5: each service's captures hold its own requests, told with the tenant of the key that was used."""

    async def echo(seen: EngineRequest, answer: Answer) -> None:
        await answer.json({"choices": [{"message": {"content": seen.json["messages"][0]["content"]}}]})

    own_engine.script = echo
    other_key = "sk-other-tenant"
    own_gateway.services = {
        SERVICE: service(own_engine.path, capture=ALL),
        "svc_2": service(own_engine.path, id="svc_2", tenant_id="ten_2", name="other"),
    }
    own_gateway.keys[sha256(other_key)] = wire.KeyEntry("key_2", "ten_2", "other")
    own_gateway.services[SERVICE] = msgspec.structs.replace(own_gateway.services[SERVICE], shared_with=["ten_2"])
    with running(own_gateway) as gateway:
        for number in range(20):
            key, canary = (None, "canary-one") if number % 2 else (other_key, "canary-two")
            body = chat(messages=[{"role": "user", "content": f"{canary}-{number}"}])
            named = {"X-Request-Id": f"asked-{number}"}
            asked = request(body, fields=named) if key is None else request(body, key=key, fields=named)
            assert gateway.ask(asked).status == 200
        eventually(lambda: len(captures(gateway)) == 20, 20, message="all are captured")
        kept = captures(gateway)
        access_log = (gateway.home / "logs" / "gateway" / "access.log").read_text()
    for each in kept.values():
        mine, other = ("canary-one", "canary-two") if each.tenant_id == "ten_1" else ("canary-two", "canary-one")
        assert mine in each.request
        assert mine in each.answer
        assert other not in each.request + each.answer
        assert each.service_id == SERVICE
    assert {each.tenant_id for each in kept.values()} == {"ten_1", "ten_2"}
    assert "canary" not in access_log + gateway.log()


@given(st.binary(min_size=1, max_size=40), st.floats(0, 1))
def test_sampling_is_decided_by_the_id_alone(request_id: bytes, share: float) -> None:
    assert is_sampled(request_id, share) == is_sampled(request_id, share)
    assert is_sampled(request_id, 1.0)
    assert not is_sampled(request_id, 0.0)


def test_sampled_share_is_what_was_asked_for() -> None:
    kept = sum(is_sampled(f"req_{number:024x}".encode(), 0.1) for number in range(20_000))
    assert 1700 < kept < 2300


class _AtOnce(Executor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)


@pytest.fixture
def store(tmp_path: Path) -> CaptureStore:
    made = CaptureStore(tmp_path / "worker-0", _AtOnce(), LOG)
    made.most_bytes = 1 << 30
    return made


def keep(store: CaptureStore, number: int, answer: bytes, policy: wire.Capture = ALL) -> None:
    capture = Captured(policy, b'{"model":"m"}')
    store.add(capture, answer)
    store.end(capture, record(number), policy)
    store.flush()


def test_bound_on_the_disk_drops_and_counts(store: CaptureStore) -> None:
    store.most_bytes = capturing.SEAL_BYTES - 1
    keep(store, 1, b"{}")
    assert store.results() == {"no_disk": 1, "no_memory": 0}
    store.most_bytes = 1 << 30
    keep(store, 2, b"{}")
    assert store.results() == {"no_disk": 1, "kept": 1, "no_memory": 0}


def test_memory_is_bounded_and_given_back(store: CaptureStore) -> None:
    policy = wire.Capture(share=1.0, max_bytes=capturing.LONGEST)
    running_ = [Captured(policy, b"{}") for _ in range(40)]
    piece = bytes(1024 * 1024)
    for capture in running_:
        for _ in range(4):
            store.add(capture, piece)
    assert store.held <= capturing.MEMORY_BYTES
    assert any(capture.is_short for capture in running_)


def test_capture_that_is_switched_off_meanwhile_gives_its_memory_back(store: CaptureStore) -> None:
    log = AccessLog(Path("/nowhere"), 0, LOG)
    books = Books(cast("Spool", SimpleNamespace(append=lambda *_: None)), metrics_of(), log, store)
    context = SimpleNamespace(captures=store, now=lambda: 1.0, settle=books.settle)
    asked = parts.request(parts.shard(capture=ALL))
    asked.prepared = Prepared()
    asked.prepared.body = b'{"model":"m"}'
    ledger = Ledger(cast("Context", context), asked)
    assert store.held > 0
    asked.service = parts.request(parts.shard()).service  # as a later snapshot has it
    ledger.settle(499, "client_cut")
    books.write_up()
    store.flush()
    assert store.held == 0


def test_engine_that_answers_nonsense_costs_no_other_capture(
    store: CaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(stream: bytes) -> None:
        raise TypeError(stream)

    monkeypatch.setattr(capturing, "reassembled", fail)
    for number in (1, 2):
        capture = Captured(ALL, b"")
        store.add(capture, b"data: {}")
        store.end(capture, msgspec.structs.replace(record(number), stream=number == 1), ALL)
    store.flush()
    assert store.held == 0
    assert store.results() == {"failed": 1, "kept": 1, "no_memory": 0}


def test_long_answer_is_kept_to_its_bound_and_marked() -> None:
    policy = wire.Capture(share=1.0, max_bytes=10)
    capture = Captured(policy, b'{"prompt":"0123456789"}')
    capture.add(b'"0123456789"')
    told = capture_record(capture, record(1), 10)
    assert (told.request, told.request_is_short) == ('{"prompt":', True)
    assert (told.answer, told.answer_is_short) == ('"012345678', True)


def tool_call(index: int, **function: str) -> dict[str, Any]:
    return {"index": index, "function": function}


def test_choices_and_tool_calls_are_put_together() -> None:
    def delta(index: int, **members: Any) -> bytes:
        return event({"object": "chat.completion.chunk", "choices": [{"index": index, "delta": members}]})

    stream = b"".join(
        (
            b": a comment\r\n\r\n",
            delta(1, role="assistant", content="b"),
            delta(0, role="assistant", content=""),
            delta(0, tool_calls=[{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f"}}]),
            delta(0, tool_calls=[tool_call(0, arguments='{"a"')]),
            delta(1, content="c"),
            delta(0, tool_calls=[tool_call(0, arguments=":1}")]),
            event({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
            final_event(9, 4),
            DONE,
        )
    )
    whole = reassembled(stream)
    assert whole is not None
    assert whole["object"] == "chat.completion"
    assert whole["usage"]["completion_tokens"] == 4
    first, second = whole["choices"]
    assert first["finish_reason"] == "tool_calls"
    assert first["message"]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    ]
    assert second["message"] == {"role": "assistant", "content": "bc"}


@pytest.mark.parametrize("choices", [5, {"a": 1}, "text", [{"delta": {"tool_calls": 7}}], [{"delta": 3}]])
def test_choices_in_another_shape_are_left_out(choices: Any) -> None:
    whole = reassembled(event({"model": "m", "choices": choices}))
    assert whole is not None
    assert whole["model"] == "m"


@pytest.mark.parametrize("stream", [b"", b"data: nonsense\n\n", b"data: []\n\n", b"data: 1\n\n", b"\x00\xff"])
def test_stream_that_is_not_understood_stays_text(stream: bytes) -> None:
    assert reassembled(stream) is None


@given(
    st.binary(max_size=300),
    st.lists(st.sampled_from([b"data: ", b"\n\n", b'{"choices":[{"delta":', b"{}}]}", b"[DONE]"])),
)
def test_nothing_an_engine_sends_breaks_the_reassembly(noise: bytes, parts: list[bytes]) -> None:
    reassembled(noise.join(parts))
