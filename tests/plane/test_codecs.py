"""The decoders, with everything that can be cut anywhere cut everywhere."""

import json
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.gateway.plane.chunked import LAST_CHUNK, ChunkDecoder, MalformedChunk, encode_chunk
from appliance.gateway.plane.relay import BodyRelay
from appliance.gateway.plane.sse import EventSplitter, EventTooLarge, event_data
from appliance.gateway.plane.usage import Counter, StreamMeter, find_member, usage_in_tail, usage_of_answer


def cut(data: bytes, points: list[int]) -> list[bytes]:
    """`data` in pieces, cut at `points` (modulo its length)."""
    at = sorted({point % (len(data) + 1) for point in points} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(at)]


POINTS = st.lists(st.integers(0, 1 << 16), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.binary(max_size=50), POINTS)
def test_chunked_bodies_are_read_whatever_the_pieces(payloads: list[bytes], after: bytes, points: list[int]) -> None:
    coded = b"".join(encode_chunk(payload) for payload in payloads) + LAST_CHUNK + after
    decoder, decoded, rest = ChunkDecoder(), b"", b""
    for piece in cut(coded, points):
        if decoder.done:
            rest += piece
        else:
            decoded += decoder.feed(piece)
            rest += decoder.rest

    assert (decoder.done, decoded, rest) == (True, b"".join(payloads), after)
    assert decoder.chunks == len(payloads) + 1


@given(st.binary(max_size=200), POINTS)
def test_chunk_decoder_ends_decides_or_refuses(noise: bytes, points: list[int]) -> None:
    decoder, taken = ChunkDecoder(), 0
    try:
        for piece in cut(noise, points):
            if not decoder.done:
                taken += len(decoder.feed(piece))
    except MalformedChunk:
        return
    assert taken <= len(noise)


LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1, max_size=20).map(str.encode)


@given(st.lists(st.lists(LINES, min_size=1, max_size=3), min_size=1, max_size=6), LINE_ENDS, POINTS)
def test_events_are_found_whatever_the_pieces(events: list[list[bytes]], end: bytes, points: list[int]) -> None:
    whole = [b"".join(line + end for line in lines) + end for lines in events]
    splitter = EventSplitter()
    found = [event for piece in cut(b"".join(whole), points) for event in splitter.feed(piece)]

    if end == b"\r":  # an LF could still follow the last one
        found.append(splitter.held)
    assert found == whole


@given(st.binary(max_size=300), POINTS)
def test_no_byte_of_a_stream_is_lost(noise: bytes, points: list[int]) -> None:
    splitter = EventSplitter()
    passed = b"".join(event for piece in cut(noise, points) for event in splitter.feed(piece))

    assert passed + splitter.held == noise


def test_endless_event_is_refused() -> None:
    splitter = EventSplitter()
    for _ in range(10):
        assert list(splitter.feed(b"x" * 100_000)) == []
    with pytest.raises(EventTooLarge):
        list(splitter.feed(b"x" * 100_000))


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: {}\n\n", b"{}"),
        (b"data:{}\n\n", b"{}"),
        (b"data:  {}\n\n", b" {}"),
        (b"data: a\r\ndata: b\r\n\r\n", b"a\nb"),
        (b"event: x\ndata: a\nid: 1\n\n", b"a"),
        (b": comment\n\n", None),
        (b"\n\n", None),
    ],
)
def test_data_of_an_event(event: bytes, data: bytes | None) -> None:
    assert event_data(event) == data


@given(st.dictionaries(st.text(), JSON, max_size=5), JSON, st.booleans(), st.integers(0, 5))
def test_member_is_taken_out_and_nothing_else(members: dict[str, Any], value: Any, spaced: bool, at: int) -> None:  # noqa: FBT001
    members.pop("usage", None)
    items = list(members.items())
    items.insert(at, ("usage", value))
    separators = (", ", ": ") if spaced else (",", ":")
    text = json.dumps(dict(items), separators=separators).encode()

    start, end = find_member(text, b'"usage"')

    assert json.loads(text[:start] + text[end:]) == members


@given(st.dictionaries(st.text().filter(lambda name: name != "usage"), JSON, max_size=5))
def test_member_that_is_not_there(members: dict[str, Any]) -> None:
    assert find_member(json.dumps(members).encode(), b'"usage"') == (0, 0)


def meter(**changes: Any) -> StreamMeter:
    return StreamMeter(Counter(), **{"choices": 1, "include_usage": False, "continuous_usage": False, **changes})


@pytest.mark.parametrize(
    ("data", "passed", "counts"),
    [
        # as vLLM writes it: found at the end without decoding
        (
            '{"choices":[{"index":0}],"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2}}',
            '{"choices":[{"index":0}]}',
            (3, 2),
        ),
        # any other shape: decoded
        ('{"usage": {"prompt_tokens": 3, "completion_tokens": 2}, "choices": [{}]}', '{ "choices": [{}]}', (3, 2)),
        ('{"choices":[{}],"usage":{"completion_tokens":2,"prompt_tokens":3},"x":1}', '{"choices":[{}],"x":1}', (3, 2)),
        ('{"choices":[{}],"usage":null}', '{"choices":[{}],"usage":null}', (0, 1)),
        ('{"choices":[],"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2}}', "", (3, 2)),
        # a nested member is not the chunk's
        (
            '{"choices":[{}],"x":{"a":1,"usage":{"prompt_tokens":8,"total_tokens":9,"completion_tokens":1}}}',
            '{"choices":[{}],"x":{"a":1,"usage":{"prompt_tokens":8,"total_tokens":9,"completion_tokens":1}}}',
            (0, 1),
        ),
        ("not json", "not json", (0, 0)),
    ],
)
def test_usage_of_a_chunk(data: str, passed: str, counts: tuple[int, int]) -> None:
    stream = meter()

    taken = stream.take(f"data: {data}\n\n".encode(), data.encode())

    assert taken.decode() == (f"data: {passed}\n\n" if passed else "")
    assert (stream.counter.prompt, stream.counter.completion) == counts


@given(st.dictionaries(st.sampled_from(["id", "model", "x"]), JSON), st.integers(0, 999), st.integers(0, 999))
def test_both_ways_to_a_chunks_usage_agree(members: dict[str, Any], prompt: int, completion: int) -> None:
    told = {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
    chunk = {**members, "choices": [{"index": 0}], "usage": told}
    text = json.dumps(chunk, separators=(",", ":")).encode()
    quick, slow = meter(), meter(choices=2)

    assert quick.take(b"data: " + text + b"\n\n", text) == slow.take(b"data: " + text + b"\n\n", text)
    assert (quick.counter.prompt, quick.counter.completion) == (slow.counter.prompt, slow.counter.completion)


@pytest.mark.parametrize(
    "told",
    ['{"error":"x"}', '{"error":{"message":5}}', '{"error":[1]}', '{"choices":[],"error":{"message":"x","code":400}}'],
)
def test_error_event_of_any_shape_is_not_passed_on(told: str) -> None:
    stream = meter()

    assert stream.take(f"data: {told}\n\n".encode(), told.encode()) == b""
    assert stream.error is not None


def test_usage_of_a_long_answer_is_found_in_its_tail() -> None:
    counter = Counter()
    relay = BodyRelay(counter)
    text = '{"data":["' + "x" * 3_000_000 + '"],"usage":{"prompt_tokens":7,"details":{"a":1},"total_tokens":7}}'
    pieces = cut(text.encode(), list(range(0, len(text), 65_536)))

    assert b"".join([relay.feed(piece) for piece in pieces] + [relay.finish()]) == text.encode()
    assert counter.prompt == 7


def test_usage_of_answers() -> None:
    assert usage_of_answer(b"[]") is None
    assert usage_of_answer(b'{"usage":5}') is None
    responses = usage_of_answer(b'{"usage":{"input_tokens":3,"output_tokens":4}}')
    assert responses is not None
    assert (responses.prompt, responses.completion) == (3, 4)
    assert usage_in_tail(b"no usage") is None


@pytest.mark.parametrize(("told", "counted"), [(-1_000_000, 0), (1 << 40, 999_999_999), (7, 7)])
def test_counts_of_an_engine_neither_give_back_nor_overflow(told: int, counted: int) -> None:
    member = b'"usage":{"prompt_tokens":%d,"completion_tokens":%d}' % (told, told)
    answer = usage_of_answer(b"{" + member + b"}")
    assert answer is not None
    assert (answer.prompt, answer.completion) == (counted, counted)
    for choices in (1, 2):
        streamed = meter(choices=choices)
        for index in range(choices):
            data = b'{"choices":[{"index":%d}],%b}' % (index, member)
            streamed.take(b"data: " + data + b"\n\n", data)
        assert streamed.counter.prompt == counted
        assert streamed.counter.completion == min(choices * counted, 999_999_999)


def test_engine_that_tells_of_ever_more_choices_costs_no_more_per_chunk() -> None:
    counter = Counter()
    began = time.process_time()
    for index in range(50_000):
        counter.of_choice(index, 9, 1)
    assert time.process_time() - began < 5, "more than twice that if each chunk looked at all choices"
    counter.of_choice(0, 9, 3)
    assert counter.completion == 50_002
