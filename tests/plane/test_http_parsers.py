"""The parsers of heads and bodies against whatever bytes there are, and against llhttp."""

import asyncio
import tracemalloc
from typing import cast

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.gateway.plane.body import BodyMemory, BodyReader, check_length
from appliance.gateway.plane.chunked import LAST_CHUNK, MAX_EXTRA, ChunkDecoder, MalformedChunk, encode_chunk
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.head import MAX_HEAD, RequestHead, check_incomplete, parse_request
from appliance.gateway.plane.schemas.listeners import Listener
from appliance.gateway.plane.turns import Turns
from tests.plane.test_codecs import POINTS, cut
from tests.plane.virtual import Loop

TOKENS = st.text("abcXYZ019-_.!~", min_size=1, max_size=12).map(str.encode)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30).map(
    lambda text: text.encode("latin-1")
)
DAMAGE = st.sampled_from(
    [b"\n", b"\r", b"\0", b"\r\n", b" ", b"\t", b":", b"\r\n ", b"\x0b", b"\x7f", b"\xff", b",", b"0"]
)
NAMES = st.sampled_from([b"content-length", b"transfer-encoding", b"host", b"expect", b"connection"]) | TOKENS
SAID = st.sampled_from([b"13", b"chunked", b"a", b"close", b"100-continue", b"gzip"]) | VALUES


def head_of(fields: list[tuple[bytes, bytes]], line: bytes = b"POST /v1/x HTTP/1.1") -> bytes:
    return b"\r\n".join([line, *(name + b": " + value for name, value in fields)]) + b"\r\n\r\n"


def ours(head: bytes) -> RequestHead | None:
    try:
        return parse_request(head)
    except Refusal as refusal:
        if refusal.close:  # as it must be for what is not understood
            return None
        raise


def llhttps(head: bytes) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
    """The fields and the method as llhttp understands them."""
    fields: list[tuple[bytes, bytes]] = []

    class Sink:
        def on_header(self, name: bytes, value: bytes) -> None:
            fields.append((name.lower(), value.strip(b" \t")))

    parser = httptools.HttpRequestParser(Sink())
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        return None
    return fields, parser.get_method()


@given(st.lists(st.tuples(TOKENS, VALUES), max_size=8))
def test_well_formed_heads_are_understood(fields: list[tuple[bytes, bytes]]) -> None:
    own = [(b"x-" + name, value) for name, value in fields]

    understood = ours(head_of([(b"Host", b"a"), *own]))

    assert understood is not None
    expected: dict[bytes, bytes] = {b"host": b"a"}
    for name, value in own:
        known = expected.get(name.lower())
        stripped = value.strip(b" \t")
        expected[name.lower()] = stripped if known is None else known + b", " + stripped
    assert understood.fields == expected
    assert (understood.method, understood.path, understood.content_length) == (b"POST", b"/v1/x", None)


@given(st.lists(st.tuples(NAMES, SAID), max_size=6), DAMAGE, st.integers(0, 400), st.booleans())
@example([(b"host", b"a"), (b"transfer-encoding", b"chunked")], b" ", 42, True)
def test_what_is_understood_llhttp_understands_alike(
    fields: list[tuple[bytes, bytes]],
    damage: bytes,
    at: int,
    damaged: bool,  # noqa: FBT001 - hypothesis gives it
) -> None:
    """Nothing that a strict parser refuses is let pass, and no field is read in another way."""
    head = head_of([(b"Host", b"a"), *fields])
    if damaged:
        at %= len(head)
        head = head[:at] + damage + head[at:]
    understood = ours(head)
    if understood is None or not head.endswith(b"\r\n\r\n") or b"\r\n\r\n" in head[:-4]:
        return

    told = llhttps(head)

    assert told is not None
    joined: dict[bytes, bytes] = {}
    for name, value in told[0]:
        joined[name] = value if name not in joined else joined[name] + b", " + value
    assert (joined, told[1]) == (understood.fields, understood.method)
    if understood.chunked:
        assert understood.content_length is None


@given(st.binary(max_size=300))
def test_noise_is_refused_or_understood(noise: bytes) -> None:
    ours(noise + b"\r\n\r\n")


@given(st.lists(st.tuples(NAMES, SAID), max_size=4), st.integers(0, 300))
def test_no_beginning_of_a_good_head_is_refused(fields: list[tuple[bytes, bytes]], at: int) -> None:
    head = head_of([(b"Host", b"a"), *fields])
    if ours(head) is not None:
        check_incomplete(head[: at % len(head)])


@pytest.mark.parametrize("size", [MAX_HEAD + 1, 10 * MAX_HEAD])
def test_endless_head_is_refused_before_its_end(size: int) -> None:
    with pytest.raises(Refusal) as refused:
        check_incomplete(b"GET / HTTP/1.1\r\nX: " + b"a" * size)
    assert (refused.value.status, refused.value.close) == (431, True)


# Bodies

EXTENSIONS = st.text('abc="; \t', max_size=10).map(lambda text: b";" + text.encode() if text else b"")


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=80), EXTENSIONS), max_size=6),
    st.lists(st.tuples(TOKENS, VALUES), max_size=3),
    st.binary(max_size=30),
    POINTS,
)
def test_extensions_and_trailers_change_nothing(
    chunks: list[tuple[bytes, bytes]], trailers: list[tuple[bytes, bytes]], after: bytes, points: list[int]
) -> None:
    coded = b"".join(b"%X%b\r\n%b\r\n" % (len(payload), extension, payload) for payload, extension in chunks)
    coded += b"0\r\n" + b"".join(b"%b: %b\r\n" % (name, value) for name, value in trailers) + b"\r\n" + after
    decoder, decoded, rest = ChunkDecoder(), b"", b""
    for piece in cut(coded, points):
        if decoder.done:
            rest += piece
        else:
            decoded += decoder.feed(piece)
            rest += decoder.rest

    assert (decoder.done, decoded, rest) == (True, b"".join(payload for payload, _ in chunks), after)


@given(st.binary(min_size=1, max_size=40), st.integers(0, 60), DAMAGE, POINTS)
def test_damage_is_noticed_or_harmless(payload: bytes, at: int, damage: bytes, points: list[int]) -> None:
    """However it arrives, a damaged body is read in one way: as a whole and in pieces alike."""
    coded = encode_chunk(payload) + LAST_CHUNK
    at %= len(coded)
    coded = coded[:at] + damage + coded[at:]

    assert read_all([coded]) == read_all(cut(coded, points))


def read_all(pieces: list[bytes]) -> tuple[bytes, bytes] | None:
    """Payload and rest; None if it is refused or never ends."""
    decoder, decoded, rest = ChunkDecoder(), b"", b""
    try:
        for piece in pieces:
            if decoder.done:
                rest += piece
            else:
                decoded += decoder.feed(piece)
                rest += decoder.rest
    except MalformedChunk:
        return None
    return (decoded, rest) if decoder.done else None


def test_extensions_are_bounded_over_the_body() -> None:
    decoder = ChunkDecoder()
    chunk = b"1;" + b"e" * 500 + b"\r\nx\r\n"
    for _ in range(MAX_EXTRA // 502):
        decoder.feed(chunk)
    with pytest.raises(MalformedChunk):
        decoder.feed(chunk)


def reader(memory: BodyMemory, *, limit: int = 1000, chunked: bool = True, length: int = 0) -> BodyReader:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % length
    head = parse_request(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
    listener = Listener("lsn_1", "gwy_1", "::1", 1, body_grace_s=2.0, body_min_rate=100)
    return BodyReader(head, limit, listener, memory, started=10.0)


def turns_of(loop: Loop) -> Turns:
    return Turns(cast("asyncio.AbstractEventLoop", loop), 1)


def test_body_takes_of_the_memory_what_it_holds_and_gives_it_back() -> None:
    memory = BodyMemory(limit=100)
    first, second, turns = reader(memory), reader(memory), turns_of(Loop())
    first.feed(encode_chunk(b"x" * 60))
    with pytest.raises(Refusal) as refused:
        second.feed(encode_chunk(b"x" * 41))
    assert (refused.value.status, refused.value.close, memory.held) == (503, True, 60)
    second.drop(turns)
    first.drop(turns)
    assert memory.held == 0
    with pytest.raises(Refusal) as refused:
        check_length(101, 1000, memory)
    assert refused.value.status == 503


def test_chunked_body_is_refused_when_it_passes_its_limit() -> None:
    memory = BodyMemory()
    body = reader(memory, limit=100)
    body.feed(encode_chunk(b"x" * 100))
    with pytest.raises(Refusal) as refused:
        body.feed(encode_chunk(b"x"))
    assert (refused.value.status, memory.held) == (413, 100)
    body.drop(turns_of(Loop()))


def test_body_in_tiny_pieces_takes_no_more_than_is_counted() -> None:
    size = 200_000
    body = reader(BodyMemory(), limit=size, chunked=False, length=size)
    tracemalloc.start()
    try:
        for at in range(0, size, 2):
            body.feed(b"%02d" % (at // 2 % 100))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * size
    assert body.complete
    assert body.content() == b"".join(b"%02d" % number for number in range(100)) * (size // 200)


def test_deadline_of_a_body_moves_with_what_has_arrived() -> None:
    body = reader(BodyMemory(), chunked=False, length=500)
    assert body.deadline == 12.0
    body.feed(b"x" * 250)
    assert body.deadline == 14.5
    assert body.feed(b"x" * 300) == b"x" * 50
    assert body.complete
