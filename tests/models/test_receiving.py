"""Bytes of an upload: cut and resumed anywhere, checked at the end, one writer at a time."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from appliance.models.digests import Digests
from appliance.models.errors import (
    UploadBusy,
    UploadDigestMismatch,
    UploadOffsetMismatch,
    UploadStalled,
    UploadTooLarge,
)
from appliance.models.parts import Part
from appliance.models.receiving import BUFFER, receive
from tests.models.builders import sha256


class ConnectionLost(Exception):
    pass


async def stream(chunks: Iterable[bytes], *, lost: bool = False) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if lost:
        raise ConnectionLost


def in_chunks(content: bytes, size: int) -> list[bytes]:
    return [content[begin : begin + size] for begin in range(0, len(content), size)]


@pytest.mark.parametrize("restarts", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
async def test_a_file_cut_at_random_places_arrives_whole(tmp_path: Path, seed: int, restarts: float):
    chance = random.Random(seed)
    content = chance.randbytes(5 * BUFFER + 12345)
    part = Part(tmp_path / "upl", 0, len(content))
    digests = Digests()
    requests = 0
    while not part.is_complete:
        offset = part.received
        end = min(len(content), offset + chance.randrange(1, 2 * BUFFER))
        lost = end < len(content) and chance.random() < 0.5
        chunks = stream(in_chunks(content[offset:end], chance.randrange(1000, 200_000)), lost=lost)
        digests = Digests() if chance.random() < restarts else digests
        try:
            received = await receive(part, sha256(content), chunks, offset=offset, digests=digests)
            assert received == end
        except ConnectionLost:
            assert part.received == end
        requests += 1
    assert requests > 2
    assert part.done.read_bytes() == content
    assert not part.growing.exists()


async def test_wrong_bytes_are_refused_and_the_file_begins_anew(tmp_path: Path):
    part = Part(tmp_path / "upl", 0, 6)
    with pytest.raises(UploadDigestMismatch, match="send it again"):
        await receive(part, sha256(b"right!"), stream([b"wrong!"]), offset=0, digests=Digests())
    assert (part.received, part.is_complete) == (0, False)
    assert await receive(part, sha256(b"right!"), stream([b"right!"]), offset=0, digests=Digests()) == 6
    assert part.is_complete


async def test_a_running_state_of_other_bytes_is_never_used(tmp_path: Path):
    """The file was emptied between two requests: the state kept for its old end must not be taken for the new one."""
    part, digests = Part(tmp_path / "upl", 0, 4), Digests()
    await receive(part, sha256(b"abcd"), stream([b"xx"]), offset=0, digests=digests)
    part.growing.write_bytes(b"ab")
    digests.take(str(part.growing), 0)
    assert await receive(part, sha256(b"abcd"), stream([b"cd"]), offset=2, digests=digests) == 4


@pytest.mark.parametrize("offset", [1, 3])
async def test_only_the_end_of_the_file_is_an_offset(tmp_path: Path, offset: int):
    part = Part(tmp_path / "upl", 0, 4)
    await receive(part, sha256(b"abcd"), stream([b"ab"]), offset=0, digests=Digests())
    with pytest.raises(UploadOffsetMismatch, match="ends at 2"):
        await receive(part, sha256(b"abcd"), stream([b"x"]), offset=offset, digests=Digests())
    assert part.received == 2


async def test_a_complete_file_takes_nothing_more(tmp_path: Path):
    part = Part(tmp_path / "upl", 0, 2)
    await receive(part, sha256(b"ab"), stream([b"ab"]), offset=0, digests=Digests())
    with pytest.raises(UploadOffsetMismatch, match="complete"):
        await receive(part, sha256(b"ab"), stream([b""]), offset=2, digests=Digests())


async def test_more_than_was_announced_is_refused(tmp_path: Path):
    part = Part(tmp_path / "upl", 0, 3)
    with pytest.raises(UploadTooLarge):
        await receive(part, sha256(b"abc"), stream([b"ab", b"cd"]), offset=0, digests=Digests())
    assert part.received <= 3


async def test_a_second_writer_is_refused_while_the_first_is_at_it(tmp_path: Path):
    part, digests = Part(tmp_path / "upl", 0, 4), Digests()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"ab"
        begun.set()
        await go_on.wait()
        yield b"cd"

    first = asyncio.create_task(receive(part, sha256(b"abcd"), slow(), offset=0, digests=digests))
    await begun.wait()
    with pytest.raises(UploadBusy):
        await receive(part, sha256(b"abcd"), stream([b"xy"]), offset=0, digests=digests)
    go_on.set()
    assert await first == 4
    assert part.done.read_bytes() == b"abcd"


async def test_a_silent_sender_loses_the_file_and_keeps_what_it_sent(tmp_path: Path):
    part, digests = Part(tmp_path / "upl", 0, 4), Digests()

    async def silent() -> AsyncIterator[bytes]:
        yield b"ab"
        await asyncio.Event().wait()

    with pytest.raises(UploadStalled):
        await receive(part, sha256(b"abcd"), silent(), offset=0, digests=digests, stalled_s=0.05)
    assert await receive(part, sha256(b"abcd"), stream([b"cd"]), offset=2, digests=digests) == 4


async def test_a_cancelled_request_leaves_the_file_free_and_in_order(tmp_path: Path):
    content = os.urandom(3 * BUFFER)
    part, digests = Part(tmp_path / "upl", 0, len(content)), Digests()
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for chunk in in_chunks(content[: 2 * BUFFER], 100_000):
            yield chunk
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(receive(part, sha256(content), endless(), offset=0, digests=digests))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    offset = part.received
    assert part.growing.read_bytes() == content[:offset]
    assert await receive(part, sha256(content), stream([content[offset:]]), offset=offset, digests=digests) == len(
        content
    )
