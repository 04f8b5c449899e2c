"""The bytes of an upload, from the request to the disk: bounded memory, no database session held.

A request brings bytes from the file's present end on (`Upload-Offset`, as in tus 1.0). What was written before a
connection broke stays, and the next request goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from appliance.models.digests import Digests
from appliance.models.errors import UploadStalled
from appliance.models.parts import Part, PartWriter

if TYPE_CHECKING:
    from hashlib import _Hash

T = TypeVar("T")
BUFFER: Final = 1024 * 1024
"""Bytes gathered before a thread writes and hashes them."""
STALLED_S: Final = 60.0
"""A sender that is silent for so long has lost its connection; its lock on the file is taken back."""


async def receive(
    part: Part,
    sha256: str,
    chunks: AsyncIterator[bytes],
    *,
    offset: int,
    digests: Digests,
    stalled_s: float = STALLED_S,
) -> int:
    """Append `chunks` at `offset`; gives the new offset. A full part is checked and done.

    Raises `UploadOffsetMismatch`, `UploadBusy`, `UploadTooLarge`, `UploadDigestMismatch`, `UploadStalled`,
    `InsufficientStorage`.
    """
    writer = await _in_thread(partial(PartWriter, part, offset))
    key = str(part.growing)
    state = digests.take(key, offset)
    try:
        await _append_all(writer, state, chunks, stalled_s)
        await _in_thread(writer.sync)
        if writer.offset == part.size:
            await _in_thread(partial(writer.complete, sha256, state))
    finally:
        if state is not None and writer.offset < part.size:
            digests.put(key, writer.offset, state)
        writer.close()
    return writer.offset


async def _append_all(writer: PartWriter, state: _Hash | None, chunks: AsyncIterator[bytes], stalled_s: float) -> None:
    buffer = bytearray()
    try:
        while (chunk := await _next(chunks, stalled_s)) is not None:
            buffer += chunk
            if len(buffer) >= BUFFER:
                full, buffer = bytes(buffer), bytearray()
                await _in_thread(partial(writer.append, full, state))
    except BaseException:
        writer.append(bytes(buffer), state)  # the connection broke: what had arrived stays, at most one buffer
        raise
    await _in_thread(partial(writer.append, bytes(buffer), state))


async def _next(chunks: AsyncIterator[bytes], stalled_s: float) -> bytes | None:
    try:
        async with asyncio.timeout(stalled_s):
            return await anext(chunks, None)
    except TimeoutError as error:
        raise UploadStalled(f"nothing arrived for {stalled_s:g} s; ask for the offset and go on from there") from error


async def _in_thread(function: Callable[[], T]) -> T:
    """Like `asyncio.to_thread`, but a cancelled caller goes on only once the thread is done with the file."""
    running = asyncio.get_running_loop().run_in_executor(None, function)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
