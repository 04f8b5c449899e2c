"""The spool's format: frames of length, CRC-32 and a msgpack record.

A frame is `<u32 length><u32 crc32 of the payload><payload>`, little-endian. A file may end within a frame (its
writer was killed); what is before that is whole.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from appliance.gateway.plane.schemas import UsageRecord

HEADER: Final = struct.Struct("<II")
MAX_PAYLOAD: Final = 1 << 20
"""A longer length is damage."""

OPEN_SUFFIX: Final = ".open"
SEALED_SUFFIX: Final = ".seg"

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(UsageRecord)


def encode_frame(record: UsageRecord) -> bytes:
    payload = _encoder.encode(record)
    return HEADER.pack(len(payload), crc32(payload)) + payload


def read_frames(path: Path, offset: int = 0) -> Iterator[tuple[UsageRecord, int]]:
    """The whole records of a segment from `offset` on, each with the offset after it.

    Ends at the end of the file or at the first frame that is torn or damaged. A record of a kind that this
    version does not know is skipped.
    """
    with path.open("rb") as file:
        file.seek(offset)
        while (header := file.read(HEADER.size)) and len(header) == HEADER.size:
            length, checksum = HEADER.unpack(header)
            if length > MAX_PAYLOAD:
                return
            payload = file.read(length)
            if len(payload) < length or crc32(payload) != checksum:
                return
            offset += HEADER.size + length
            try:
                record = _decoder.decode(payload)
            except msgspec.ValidationError:
                continue
            yield record, offset


def whole_bytes(path: Path) -> int:
    """How many bytes of the file are whole frames."""
    offset = 0
    with path.open("rb") as file:
        while (header := file.read(HEADER.size)) and len(header) == HEADER.size:
            length, checksum = HEADER.unpack(header)
            payload = file.read(length) if length <= MAX_PAYLOAD else b""
            if len(payload) < length or crc32(payload) != checksum:
                break
            offset += HEADER.size + length
    return offset


def sealed_segments(spool: Path) -> list[Path]:
    """The segments that may be ingested and then removed, oldest first, of all workers."""
    return sorted(spool.glob(f"worker-*/*{SEALED_SUFFIX}"), key=lambda path: (path.name, path.parent.name))
