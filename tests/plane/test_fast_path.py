"""The short way of a stream's events against the long one: the same bytes, the same books, whatever comes."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.gateway.plane import wire
from appliance.gateway.plane.answers import DateHeader
from appliance.gateway.plane.chunked import ChunkDecoder, encode_chunk, size_line
from appliance.gateway.plane.forward import Exchange
from appliance.gateway.plane.identifiers import RequestIds
from appliance.gateway.plane.metrics import Known, Metrics
from appliance.gateway.plane.prepared import Prepared
from appliance.gateway.plane.relay import StreamRelay
from appliance.gateway.plane.settled import Settled
from appliance.gateway.plane.slots import SLOTS, Ending, Progress, SlotTable
from appliance.gateway.plane.upstream import UpstreamConnection
from appliance.gateway.plane.usage import Counter
from tests.plane import parts
from tests.plane.fake_engine import DONE, chunk_event, event, final_event

if TYPE_CHECKING:
    import asyncio

    from appliance.gateway.plane.answering import Client
    from appliance.gateway.plane.context import Context

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FIRST = chunk_event("", 9, 1)
BACKENDS = parts.backends()


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> SlotTable:
    return SlotTable(tmp_path_factory.mktemp("slots") / SLOTS)


class Asked(NamedTuple):
    """What the client wants of usage, and whether its answer is kept."""

    final: bool = False
    continuous: bool = False
    captured: bool = False


class Wire:
    """A transport to an engine."""

    def __init__(self) -> None:
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        assert data.startswith(b"POST ")

    def abort(self) -> None:
        self.closing = True

    close = abort


class Stream:
    """One streamed request between an engine and a client, without sockets. `now` goes on with each event."""

    def __init__(self, slots: SlotTable, asked: Asked) -> None:
        self.now = 1.0
        self.written: list[bytes] = []
        self.settled: list[Settled] = []
        self.captured: list[bytes] = []
        self.metrics = Metrics(0, lambda: iter(()), lambda: "rec_1", lambda: Known(set(), set()))
        policy = wire.Capture(1.0) if asked.captured else None
        main = wire.Deployment("dep_1", "main", 100, [wire.Replica("rpl_1", "/nowhere")])
        request = parts.request(parts.shard(deployments=[main], capture=policy))
        request.prepared = Prepared()
        request.prepared.stream, request.prepared.choices = True, 1
        request.prepared.include_usage, request.prepared.continuous_usage = asked.final, asked.continuous
        client = SimpleNamespace(
            deadline=0.0, write=self.written.append, answered=lambda **_: None, refuse=self._refused, abort=lambda: None
        )
        self.exchange = Exchange(cast("Context", self._context(slots)), cast("Client", client), request)
        (replica,) = request.service.deployments[0].replicas
        self.engine = UpstreamConnection(replica)
        self.engine.connection_made(cast("asyncio.BaseTransport", Wire()))
        self.engine.idle_since = self.now
        replica.idle.append(self.engine)
        self.exchange.start()
        self.engine.data_received(HEAD)

    def _context(self, slots: SlotTable) -> Any:
        return SimpleNamespace(
            now=lambda: self.now,
            date=DateHeader(),
            draining=False,
            ids=RequestIds(),
            waiting=SimpleNamespace(queues={}),
            slots=slots,
            backends=BACKENDS,
            metrics=self.metrics,
            captures=SimpleNamespace(
                begin=lambda *_: self, add=lambda _, piece: self.captured.append(piece), end=lambda *_: None
            ),
            settle=self.settled.append,
        )

    def _refused(self, refusal: object, _: object) -> None:
        raise AssertionError(f"the head was sent: {refusal}")

    def body(self) -> tuple[bytes, bool]:
        """What the client got, without framing, and whether that has ended."""
        _, _, coded = b"".join(self.written).partition(b"\r\n\r\n")
        decoder = ChunkDecoder()
        return decoder.feed(coded), decoder.done


class Seen(NamedTuple):
    body: tuple[bytes, bool]
    captured: bytes
    progress: Progress
    ending: Ending
    between_tokens: dict[int, int]


def passed(slots: SlotTable, asked: Asked, reads: list[list[bytes]]) -> Seen:
    """What becomes of a stream; each inner list is read by itself, at one moment."""
    stream = Stream(slots, asked)
    for pieces in reads:
        stream.now += 0.02
        for piece in pieces:
            if not stream.settled:
                stream.engine.data_received(piece)
    if not stream.settled:
        stream.exchange.client_gone()
    (books,) = stream.settled
    if books.slot is not None:
        slots.free(books.slot)
    (metrics,) = stream.metrics.deployments.values()
    between = metrics.minute.inter_token.buckets
    return Seen(stream.body(), b"".join(stream.captured), books.progress, books.ending, between)


def usage(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    total = {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
    return {**total, **more}


TEXTS = st.sampled_from(
    [
        "a",
        "",
        "\n\n",
        "\r",
        '"',
        '","usage":{"prompt_tokens":9,"total_tokens":10,"completion_tokens":1}}',
        "é\u2028",
        "%d",
    ]
) | st.text(max_size=20)
COUNTS = st.integers(0, 6) | st.sampled_from([255, 999_999_998, 999_999_999, 1_000_000_000, 1 << 40])


@st.composite
def usual(draw: st.DrawFn) -> bytes:
    return chunk_event(draw(TEXTS), draw(st.sampled_from([9, 9, 9, 8])), draw(COUNTS))


@st.composite
def odd(draw: st.DrawFn) -> bytes:
    """Events that are nearly as usual, and those that are nothing of the kind."""
    plain = draw(usual())
    count = draw(COUNTS)
    choice = {"index": 0, "delta": {"content": draw(TEXTS)}}
    return draw(
        st.sampled_from(
            [
                plain.replace(b"\n", b"\r\n"),
                plain.replace(b'"choices"', b'\n"choices"'),
                plain.replace(b',"logprobs"', b'\r,"logprobs"'),
                plain.replace(b'"delta"', b'"x":1}\n\ndata: {"delta"'),
                plain.replace(b"chatcmpl-1", b"chatcmpl-2"),
                plain.replace(b'"total_tokens":', b'"total_tokens":1'),
                plain.replace(b'"completion_tokens":', b'"completion_tokens":0'),
                plain.replace(b'"completion_tokens":', b'"completion_tokens":-'),
                plain.replace(b"}}\n\n", b"}}\n"),
                plain.replace(b"}}\n\n", b"}} \n\n"),
                plain.replace(b"}}\n\n", b',"prompt_tokens_details":null}}\n\n'),
                plain[:-2],
                plain + plain,
                b": comment\n\n",
                b"id: 7\n" + plain,
                chunk_event("x" * 3000, 9, count),
                chunk_event("none", 9, count, usage=False),
                final_event(9, count),
                event({"usage": usage(9, count), "choices": [choice]}),
                event({"choices": [choice], "usage": usage(9, count, completion_tokens_details={})}),
                event({"choices": [], "x": [choice], "usage": usage(9, count)}),
                event({"x": [{"choices": [choice]}], "choices": [], "usage": usage(9, count)}),
                event({"error": {"message": "CUDA error", "code": 500}}),
                DONE,
            ]
        )
    )


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Most of it an ordinary stream: counts that go on by one, two or three; between them anything."""
    events, count = [FIRST], 1
    for other in draw(st.lists(st.none() | st.none() | odd() | usual(), max_size=12)):
        if other is None:
            count += draw(st.sampled_from([1, 1, 1, 2, 3]))
        events.append(chunk_event(draw(TEXTS), 9, count) if other is None else other)
    return events


ASKED = st.builds(Asked, st.booleans(), st.booleans(), st.booleans())


@given(streams(), ASKED, st.data())
def test_both_ways_lead_to_the_same_bytes_and_books(
    slots: SlotTable, events: list[bytes], asked: Asked, data: st.DataObject
) -> None:
    whole, cut = [], []
    while events:
        together = data.draw(st.sampled_from([1, 1, 1, 2, 3]))
        chunks, events = b"".join(map(encode_chunk, events[:together])), events[together:]
        whole.append([chunks])
        cut.append([chunks[:-1], chunks[-1:]])

    short, long = passed(slots, asked, whole), passed(slots, asked, cut)

    assert short == long


@pytest.mark.parametrize("asked", [Asked(), Asked(captured=True), Asked(final=True, continuous=True)])
def test_usual_events_are_written_as_they_come(slots: SlotTable, asked: Asked) -> None:
    """One read, one write."""
    stream = Stream(slots, asked)
    before = []
    for number in range(1, 20):
        stream.engine.data_received(encode_chunk(chunk_event(f"w{number}", 9, number)))
        before.append(len(stream.written))
    assert before == list(range(1, 20))
    expected = [chunk_event(f"w{number}", 9, number, usage=asked.continuous) for number in range(1, 20)]
    assert stream.body() == (b"".join(expected), False)
    assert b"".join(stream.captured) == (b"".join(expected) if asked.captured else b"")


class Told:
    """Books that only note what they are told."""

    def __init__(self, counter: Counter) -> None:
        self.entries: list[tuple[int, int]] = []
        self._counter = counter

    def streamed(self, size: int) -> None:
        self.entries.append((self._counter.completion, size))


def test_the_short_way_is_taken_for_usual_events() -> None:
    relay, counter = relay_and_counter()
    books, written = Told(counter), list[bytes]()
    assert relay.fast_path(books, written.append) is None  # nothing is known yet
    relay.feed(FIRST)
    fast = relay.fast_path(books, written.append)
    assert fast is not None

    taken = [fast.take(encode_chunk(chunk_event("w", 9, count))) for count in (2, 3, 5, 1000)]
    taken.append(fast.take(b"".join(encode_chunk(chunk_event("w", 9, count)) for count in (1001, 1005, 1006))))

    bare = chunk_event("w", 9, 0, usage=False)
    assert (taken, written) == ([True] * 5, [encode_chunk(bare)] * 4 + [encode_chunk(3 * bare)])
    assert books.entries == [(count, len(bare)) for count in (2, 3, 5, 1000)] + [(1006, 3 * len(bare))]
    assert counter.largest_chunk == 995
    relay.feed(chunk_event("x", 9, 1007).replace(b"chatcmpl-1", b"chatcmpl-2"))
    other = relay.fast_path(books, written.append)
    assert other is not None
    assert other is not fast
    relay.feed(DONE)
    assert relay.fast_path(books, written.append) is None


def test_what_is_not_all_of_the_shape_is_left_untouched() -> None:
    relay, counter = relay_and_counter()
    books, written = Told(counter), list[bytes]()
    relay.feed(FIRST)
    fast = relay.fast_path(books, written.append)
    assert fast is not None
    usual = encode_chunk(chunk_event("w", 9, 2))
    for end in (encode_chunk(DONE), b"0\r\n\r\n", usual[:-1], usual, b"\r\n"):  # `usual`: its count does not grow
        assert not fast.take(usual + end)
    assert (books.entries, written, counter.completion) == ([], [], 1)
    assert fast.take(usual)


@pytest.mark.parametrize(
    ("usual", "other"),
    [
        (b'"delta"', b'\n"delta"'),
        (b'"delta"', b'\r"delta"'),
        (b'"delta"', b'"x":1}\n\ndata: {"delta"'),
        (b'"created":1', b'"created":2'),
        (b'"total_tokens":11', b'"total_tokens":12'),
        (b'"completion_tokens":2', b'"completion_tokens":02'),
        (b'"completion_tokens":2', b'"completion_tokens":1'),
        (b"}}\n\n", b"}}\r\n\r\n"),
    ],
)
def test_nearly_usual_event_goes_the_long_way(usual: bytes, other: bytes) -> None:
    relay, counter = relay_and_counter()
    written = list[bytes]()
    relay.feed(FIRST)
    fast = relay.fast_path(Told(counter), written.append)
    assert fast is not None
    whole = chunk_event("w", 9, 2)
    assert whole.count(usual) == 1
    assert not fast.take(encode_chunk(whole.replace(usual, other)))
    assert fast.take(encode_chunk(whole))


def test_counts_of_the_short_way_are_bounded() -> None:
    relay, counter = relay_and_counter()
    relay.feed(FIRST)
    counter.total(9, 999_999_999)
    fast = relay.fast_path(Told(counter), list[bytes]().append)
    assert fast is not None
    assert not fast.take(encode_chunk(chunk_event("", 9, 1_000_000_000)))


def test_shape_is_not_learnt_of_choices_within_another_member() -> None:
    relay, counter = relay_and_counter()
    choice = {"index": 0, "delta": {"content": "w"}}
    relay.feed(event({"x": {"choices": [choice]}, "choices": [choice], "usage": usage(9, 1)}))
    assert counter.completion == 1
    assert relay.fast_path(Told(counter), list[bytes]().append) is None


def relay_and_counter() -> tuple[StreamRelay, Counter]:
    prepared = Prepared()
    prepared.stream, prepared.choices = True, 1
    counter = Counter()
    return StreamRelay(counter, prepared), counter


@pytest.mark.parametrize("size", [0, 1, 5, 6, 7, 20, 21, 22, 200, 260, 261, 262, 2047])
def test_line_of_a_lone_chunk_tells_its_size(size: int) -> None:
    line = size_line(size)
    assert line == b" " or len(encode_chunk(b"x" * int(line, 16))) == size
    lengths = [len(encode_chunk(b"x" * length)) for length in range(1, 2048)]
    assert (line == b" ") == (size not in lengths)


def test_deadline_is_put_off_by_what_was_not_told_to_it(slots: SlotTable) -> None:
    """A stream whose events take the short way is alive; one that is silent for the idle time is ended."""
    stream = Stream(slots, Asked())
    for number in range(1, 200):
        stream.now += 1.0
        stream.engine.data_received(encode_chunk(chunk_event("w", 9, number)))
        stream.exchange.on_deadline()
    assert stream.settled == []
    stream.now += wire.Timeouts().idle_s + 0.1
    stream.exchange.on_deadline()
    assert [books.ending.outcome for books in stream.settled] == ["timed_out"]
