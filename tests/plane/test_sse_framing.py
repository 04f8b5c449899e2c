"""Event streams that are framed in every way that the standard allows, and cut in every place that a network can.

What the client gets are the engine's bytes, but for usage that it did not ask for; and whatever happens to the engine
within a stream, the client never takes for whole what is not.
"""

import json
import re
from collections.abc import Iterator
from itertools import accumulate, combinations, pairwise

import pytest

from appliance.gateway.plane import wire
from appliance.gateway.plane.chunked import ChunkDecoder
from appliance.gateway.plane.sse import EventSplitter
from tests.plane.fake_engine import DONE, Answer, EngineRequest, FakeEngine, Script, chunk_event, event, final_event
from tests.plane.harness import SERVICE, Gateway, Response, chat, request, service

EVENTS = [chunk_event("a", 9, 1), chunk_event('"\\u2028[DONE]', 9, 2), final_event(9, 2), DONE]
USAGE = re.compile(rb',"usage":\{"prompt_tokens":9,[^}]*\}')
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

FRAMINGS = {
    "LF": b"".join(EVENTS),
    "CRLF": b"".join(EVENTS).replace(b"\n", b"\r\n"),
    "CR": b"".join(EVENTS).replace(b"\n", b"\r"),
    "mixed": EVENTS[0].replace(b"\n\n", b"\r\n\n") + EVENTS[1].replace(b"\n\n", b"\n\r\n") + EVENTS[2] + EVENTS[3],
    "comments": b": hello\n\n" + EVENTS[0] + b":\n" + b": data: [DONE]\n\n" + EVENTS[1] + EVENTS[2] + EVENTS[3],
    "fields": b"id: 1\nretry: 5\n" + EVENTS[0] + b"event: x\n" + EVENTS[1] + EVENTS[2] + b"id\n" + EVENTS[3],
    "no blank": b"".join(EVENTS).replace(b"data: ", b"data:"),
    "empty events": b"\n\n" + EVENTS[0] + b"\n\n\n" + EVENTS[1] + EVENTS[2] + EVENTS[3],
}
ASKED = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}


def splits(engine: FakeEngine, coded: bytes, *, ending: str = "") -> Script:
    """Sends the bytes cut in two, at the next position with each request; then breaks off if `ending` says so."""

    async def script(seen: EngineRequest, answer: Answer) -> None:
        at = len(engine.requests)
        await answer.raw(HEAD + coded[:at])
        if ending == "abort":
            answer.abort()
        elif ending == "stall":
            await seen.gone()
        else:
            await answer.raw(coded[at:])

    return script


def one_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def answers(gateway: Gateway, count: int, **members: object) -> Iterator[Response]:
    """One after the other, over one connection as long as that lasts."""
    done = 0
    while done < count:
        with gateway.connect() as connection:
            while done < count:
                connection.send(request(chat(**members)))
                answer = connection.answer()
                yield answer
                done += 1
                if not answer.complete or answer.fields.get("connection") == "close":
                    break


@pytest.mark.parametrize("name", FRAMINGS)
def test_every_split_of_every_framing(gateway: Gateway, engine: FakeEngine, name: str) -> None:
    """The cuts go through the chunked coding as well as through the events in it."""
    whole = FRAMINGS[name]
    middle = len(whole) // 2
    coded = one_chunk(whole[:middle]) + one_chunk(whole[middle:]) + b"0\r\n\r\n"
    engine.script = splits(engine, coded)

    for answer in answers(gateway, len(coded), **ASKED):
        assert (answer.status, answer.complete, answer.body) == (200, True, whole)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_decoders_find_the_same_events_at_every_pair_of_splits(end: bytes) -> None:
    """The network may join what was sent in two pieces; here the pieces are certain."""
    whole = end.join([b": c", b"data: {}", b"", b"data: x", b"data: y", b"", b"data: [DONE]", b"", b""])
    coded = one_chunk(whole[:20]) + one_chunk(whole[20:]) + b"0\r\n\r\n"
    expected = events_of([coded])
    assert b"".join(expected) == whole

    for first, second in combinations(range(len(coded) + 1), 2):
        assert events_of([coded[:first], coded[first:second], coded[second:]]) == expected


def events_of(pieces: list[bytes]) -> list[bytes]:
    decoder, splitter = ChunkDecoder(), EventSplitter()
    found = [event for piece in pieces if not decoder.done for event in splitter.feed(decoder.feed(piece))]
    assert decoder.done
    return [*found, splitter.held] if splitter.held else found


@pytest.mark.parametrize("name", FRAMINGS)
def test_usage_is_taken_out_at_every_split(gateway: Gateway, engine: FakeEngine, name: str) -> None:
    whole = FRAMINGS[name]
    coded = one_chunk(whole) + b"0\r\n\r\n"
    final = next(part for part in re.split(rb"(?<=[\n\r]{2})", whole) if b'"choices":[]' in part)
    expected = USAGE.sub(b"", whole.replace(final, b""))
    engine.script = splits(engine, coded)

    for answer in answers(gateway, len(coded), stream=True):
        assert answer.complete
        assert without_blanks(answer.body) == without_blanks(expected)


def without_blanks(stream: bytes) -> list[bytes]:
    """Its lines that are not empty: an event that is taken out may leave the blank line that ended it or not."""
    return [line for line in re.split(rb"[\r\n]+", stream) if line]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_of_64_kib(gateway: Gateway, engine: FakeEngine, end: bytes) -> None:
    large = [chunk_event("x" * 65_536, 9, number, usage=False) for number in range(1, 8)]
    whole = b"".join([*large, final_event(9, 7), DONE]).replace(b"\n", end)
    sizes = accumulate([1, 2, 3, 1000, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 131_072], initial=0)
    cuts = [*sizes, len(whole)]

    async def script(_: EngineRequest, answer: Answer) -> None:
        await answer.stream_head()
        for start, stop in pairwise(cuts):
            await answer.chunk(whole[start:stop])
        await answer.end()

    engine.script = script
    (answer,) = answers(gateway, 1, **ASKED)

    assert (answer.complete, answer.body == whole) == (True, True)


def test_engine_that_breaks_off_anywhere_is_never_taken_for_whole(gateway: Gateway, engine: FakeEngine) -> None:
    whole = EVENTS[0] + DONE
    coded = one_chunk(EVENTS[0]) + one_chunk(DONE) + b"0\r\n\r\n"
    engine.script = splits(engine, coded, ending="abort")
    done_at = coded.index(DONE) + len(DONE)

    for number, answer in enumerate(answers(gateway, len(coded) - 1, **ASKED), start=1):
        assert number == len(engine.requests)
        if number >= done_at:
            assert (answer.complete, answer.body) == (True, whole)
        else:
            assert DONE not in answer.body
            assert_broken_off(answer, whole, "engine_unavailable")


def assert_broken_off(answer: Response, whole: bytes, code: str) -> None:
    """Some of the stream and one error event, cut; or an answer that is an error."""
    if answer.status != 200:
        assert answer.error["code"] == code
        return
    passed, found, told = answer.body.rpartition(b'data: {"error"')
    assert found
    assert json.loads(b'{"error"' + told)["error"]["code"] == code
    assert (whole.startswith(passed), answer.complete) == (True, False)


def test_engine_that_stalls_anywhere_is_ended(gateway: Gateway, engine: FakeEngine) -> None:
    gateway.services = {SERVICE: service(engine.path, timeouts=wire.Timeouts(first_byte_s=0.3, idle_s=0.3))}
    gateway.publish()
    whole = b"".join(EVENTS)
    coded = b"".join(map(one_chunk, EVENTS))
    starts = [*accumulate((len(one_chunk(each)) for each in EVENTS[:-1]), initial=1)]

    async def script(seen: EngineRequest, answer: Answer) -> None:
        await answer.raw(HEAD + coded[: starts[len(engine.requests) - 1]])
        await seen.gone()

    engine.script = script
    for answer in answers(gateway, len(starts), **ASKED):
        assert_broken_off(answer, whole, "engine_timeout")
    assert all(seen.gone.wait(2) for seen in engine.requests)


def test_error_and_done_in_one_piece_at_every_split(gateway: Gateway, engine: FakeEngine) -> None:
    failed = event({"error": {"message": "CUDA error", "type": "InternalServerError", "code": 500}})
    whole = EVENTS[0] + failed + DONE
    coded = one_chunk(whole) + b"0\r\n\r\n"
    engine.script = splits(engine, coded)

    for answer in answers(gateway, len(coded), **ASKED):
        assert (DONE in answer.body, b"CUDA" in answer.body) == (False, False)
        assert_broken_off(answer, EVENTS[0], "engine_error")
