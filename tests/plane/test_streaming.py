"""Event streams: the engine's bytes but for usage that was not asked for, metered exactly, never falsely done."""

import json
import re
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from appliance.gateway.plane import wire
from tests.plane.fake_engine import DONE, Answer, EngineRequest, FakeEngine, Gate, chunk_event, event, final_event, hold
from tests.plane.harness import SERVICE, Gateway, chat, request, service
from tests.support.waiting import eventually

WITH_USAGE = [chunk_event("a", 9, 1), chunk_event('"usage":{}', 9, 2), chunk_event("c", 9, 3)]
BARE = [
    chunk_event("a", 0, 0, usage=False),
    chunk_event('"usage":{}', 0, 0, usage=False),
    chunk_event("c", 0, 0, usage=False),
]
FINAL = final_event(9, 3)


def plays(*pieces: bytes, ending: str = "end") -> Any:
    async def script(seen: EngineRequest, answer: Answer) -> None:
        await answer.stream_head()
        for piece in pieces:
            await answer.chunk(piece)
        if ending == "end":
            await answer.end()
        elif ending == "abort":
            answer.abort()
        else:
            await seen.gone()

    return script


def ask(gateway: Gateway, request_id: str, **members: Any) -> Any:
    return gateway.ask(request(chat(stream=True, **members), fields={"X-Request-Id": request_id}))


@pytest.mark.parametrize(
    ("options", "passed"),
    [
        (None, [*BARE, DONE]),
        ({"include_usage": False}, [*BARE, DONE]),
        ({"include_usage": True}, [*BARE, FINAL, DONE]),
        ({"include_usage": True, "continuous_usage_stats": True}, [*WITH_USAGE, FINAL, DONE]),
    ],
)
def test_usage_is_passed_on_as_far_as_it_was_asked_for(
    gateway: Gateway, engine: FakeEngine, options: Any, passed: list[bytes]
) -> None:
    engine.script = plays(*WITH_USAGE, FINAL, DONE)
    request_id = f"usage-{json.dumps(options).encode().hex()[:80]}"

    answer = ask(gateway, request_id, **({"stream_options": options} if options else {}))

    assert (answer.status, answer.complete, answer.body) == (200, True, b"".join(passed))
    assert engine.requests[0].json["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    record = gateway.record(request_id)
    assert (record.prompt_tokens, record.completion_tokens, record.outcome, record.stream) == (9, 3, "completed", True)
    assert (record.estimated, record.tail_tokens, record.bytes_out) == (False, 0, len(answer.body))


STREAMS = {
    "LF": [*WITH_USAGE, FINAL, DONE],
    "CRLF": [each.replace(b"\n", b"\r\n") for each in [*WITH_USAGE, FINAL, DONE]],
    "CR": [each.replace(b"\n", b"\r") for each in [*WITH_USAGE, FINAL, DONE]],
    "comments": [b": hello\n\n", *WITH_USAGE, b":\n", FINAL, b"event: x\nid: 5\n" + DONE],
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 100_000])
def test_stream_cut_into_pieces_of_any_size(gateway: Gateway, engine: FakeEngine, name: str, size: int) -> None:
    whole = b"".join(STREAMS[name])
    engine.script = plays(*(whole[at : at + size] for at in range(0, len(whole), size)))

    answer = ask(
        gateway, f"pieces-{name}-{size}", stream_options={"include_usage": True, "continuous_usage_stats": True}
    )

    assert (answer.body, answer.complete) == (whole, True)
    record = gateway.record(f"pieces-{name}-{size}")
    assert (record.prompt_tokens, record.completion_tokens, record.outcome) == (9, 3, "completed")


@pytest.mark.parametrize("name", STREAMS)
def test_only_usage_is_taken_out_whatever_the_line_ends(gateway: Gateway, engine: FakeEngine, name: str) -> None:
    whole = b"".join(STREAMS[name])
    engine.script = plays(*(whole[at : at + 1] for at in range(len(whole))))
    usage = re.compile(rb',"usage":\{"prompt_tokens":9,[^}]*\}')

    answer = ask(gateway, f"taken-{name}", stream_options={"include_usage": True})

    assert answer.body == b"".join(each if b'"choices":[]' in each else usage.sub(b"", each) for each in STREAMS[name])


def test_large_events(gateway: Gateway, engine: FakeEngine) -> None:
    large = [chunk_event("x" * 65_536, 9, number, usage=False) for number in range(1, 20)]
    engine.script = plays(*large, final_event(9, 19), DONE)

    answer = ask(gateway, "large")

    assert answer.body == b"".join([*large, DONE])
    assert gateway.record("large").completion_tokens == 19


def test_engine_that_tells_nothing_is_counted_and_marked(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = plays(*BARE, DONE)

    ask(gateway, "untold")

    record = gateway.record("untold")
    assert (record.completion_tokens, record.estimated, record.outcome) == (3, True, "completed")
    assert record.prompt_tokens > 0


def test_several_choices_are_added_up(gateway: Gateway, engine: FakeEngine) -> None:
    both = [chunk_event("a", 9, 1, index=0), chunk_event("b", 9, 1, index=1), chunk_event("c", 9, 2, index=1)]
    engine.script = plays(*both, ending="abort")

    ask(gateway, "choices", n=2)

    record = gateway.record("choices")
    assert (record.completion_tokens, record.outcome) == (3, "upstream_cut")


def test_engine_cut_in_the_middle_is_an_error_and_no_done(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = plays(*WITH_USAGE, b'data: {"unfin', ending="abort")

    answer = ask(gateway, "cut")

    assert answer.body.startswith(b"".join(BARE))
    assert not answer.complete
    told = json.loads(answer.body.removeprefix(b"".join(BARE)).removeprefix(b"data: "))
    assert told["error"]["code"] == "engine_unavailable"
    record = gateway.record("cut")
    assert (record.prompt_tokens, record.completion_tokens, record.outcome) == (9, 3, "upstream_cut")
    assert (record.estimated, record.tail_tokens > 0) == (False, True)


def test_stream_that_ends_without_done_is_an_error(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = plays(*WITH_USAGE)

    answer = ask(gateway, "undone")

    assert b"[DONE]" not in answer.body
    assert b"engine_unavailable" in answer.body
    assert not answer.complete


def test_error_event_is_rewritten_and_its_done_withheld(gateway: Gateway, engine: FakeEngine) -> None:
    secret = event({"error": {"message": "CUDA at /opt/x.py", "type": "InternalServerError", "code": 500}})
    engine.script = plays(WITH_USAGE[0], secret, DONE)

    answer = ask(gateway, "error-event")

    assert b"CUDA" not in answer.body
    assert b"[DONE]" not in answer.body
    assert answer.body.count(b'"error"') == 1
    assert not answer.complete
    assert gateway.record("error-event").outcome == "upstream_error"


def test_stalled_engine_is_an_error_after_the_idle_time(gateway: Gateway, engine: FakeEngine) -> None:
    gateway.services = {SERVICE: service(engine.path, timeouts=wire.Timeouts(idle_s=0.3))}
    gateway.publish()
    engine.script = plays(*WITH_USAGE, ending="stall")

    answer = ask(gateway, "stalled")

    assert b"engine_timeout" in answer.body
    assert not answer.complete
    assert gateway.record("stalled").outcome == "timed_out"
    assert engine.requests[0].gone.wait(2)


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
def test_client_that_leaves_stops_the_engine_within_a_second(gateway: Gateway, engine: FakeEngine, how: str) -> None:
    engine.script = plays(*WITH_USAGE, ending="stall")
    with gateway.connect() as connection:
        connection.send(request(chat(stream=True), fields={"X-Request-Id": f"left-{how}"}))
        connection.read_until(b'"c"')
        if how == "half-close":
            connection.socket.shutdown(socket.SHUT_WR)
        elif how == "reset":
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.socket.close()
        else:
            connection.socket.close()
        assert engine.requests[0].gone.wait(1)
    record = gateway.record(f"left-{how}")
    assert (record.outcome, record.prompt_tokens, record.completion_tokens) == ("client_cut", 9, 3)
    assert (record.estimated, record.tail_tokens > 0) == (False, True)


def test_end_behind_more_than_is_read_ahead_is_seen_within_a_second(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = hold
    ahead = request(method="GET", path="/healthz")
    with gateway.connect() as connection:
        connection.send(request(chat(), fields={"X-Request-Id": "left-ahead"}))
        eventually(lambda: engine.requests)
        connection.send(ahead * (128 * 1024 // len(ahead)))
    assert engine.requests[0].gone.wait(1)
    assert gateway.record("left-ahead").outcome == "client_cut"


def test_client_that_leaves_before_the_answer_pays_its_prompt(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = hold
    with gateway.connect() as connection:
        connection.send(request(chat(max_tokens=40), fields={"X-Request-Id": "left-early"}))
        eventually(lambda: engine.requests)
    assert engine.requests[0].gone.wait(1)
    record = gateway.record("left-early")
    assert (record.outcome, record.estimated, record.completion_tokens) == ("client_cut", True, 0)
    assert record.prompt_tokens > 0
    assert 0 < record.tail_tokens <= 40


def test_slow_reader_slows_the_engine_and_not_the_memory(gateway: Gateway, engine: FakeEngine) -> None:
    written = 0
    piece = chunk_event("x" * 60_000, 9, 1)

    async def flood(seen: EngineRequest, answer: Answer) -> None:
        nonlocal written
        answer.writer.transport.set_write_buffer_limits(high=1)
        await answer.stream_head()
        for _ in range(2000):  # 120 MB
            if seen.gone.is_set():
                return
            await answer.chunk(piece)
            written += len(piece)

    engine.script = flood
    with gateway.connect() as connection:
        connection.send(request(chat(stream=True)))
        connection.read_until(b"xxx")
        pid = gateway.worker_pid()
        last = -1

        def stands_still() -> bool:
            nonlocal last
            still, last = last == written, written
            return still

        eventually(stands_still, message="the engine is held back")
        assert written < 30_000_000
        assert resident_kib(pid) < 70 * 1024
    assert engine.requests[0].gone.wait(1)


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError(line)


def test_stream_for_http_1_0_ends_with_the_connection(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = plays(*WITH_USAGE, FINAL, DONE)

    answer = gateway.ask(request(chat(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0", 1))

    assert "transfer-encoding" not in answer.fields
    assert answer.body == b"".join([*BARE, DONE])


def test_client_that_closes_at_done_has_all_it_asked_for(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = plays(*WITH_USAGE, FINAL, DONE, ending="stall")
    with gateway.connect() as connection:
        connection.send(request(chat(stream=True), fields={"X-Request-Id": "at-done"}))
        connection.read_until(DONE)
    record = gateway.record("at-done")
    assert (record.outcome, record.completion_tokens, record.tail_tokens) == ("completed", 3, 0)


def test_pipelined_behind_a_stream_waits_and_is_bounded(gateway: Gateway, engine: FakeEngine) -> None:
    gate = engine.script = Gate()
    with gateway.connect(timeout=1.0) as connection:
        connection.send(request(chat(stream=True)))
        connection.read_until(b"first")
        sent = 0
        with suppress(TimeoutError):
            while sent < 64 * 1024 * 1024:
                connection.send(request(method="GET", path="/healthz") * 1000)
                sent += 1
        assert resident_kib(gateway.worker_pid()) < 70 * 1024
        gate.open()
        connection.read_until(b"0\r\n\r\n")
        assert connection.answer().body == b"ok\n"
