"""The spool's format: frames of length, CRC-32 and a msgpack record.

A frame is `<u32 length><u32 crc32 of the payload><payload>`, little-endian. A file may end within a frame (its
writer was killed); what is before that is whole.

A segment has one owner at a time, told by its suffix, and passes from one to the next by a rename: its worker writes
`.open` and seals it as `.seg`; then either the ingest claims it (`.taken`) or the roll-up does (`.rolling`), so that
nothing is both ingested and summed up.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from appliance.gateway.plane.schemas.records import CaptureRecord, SpoolRecord, UsageRecord

HEADER: Final = struct.Struct("<II")
MAX_PAYLOAD: Final = 1 << 20
"""A longer length is damage."""

OPEN_SUFFIX: Final = ".open"
SEALED_SUFFIX: Final = ".seg"
TAKEN_SUFFIX: Final = ".taken"

_decode_capture: Final = msgspec.msgpack.Decoder(CaptureRecord).decode
_encoder = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[SpoolRecord]] = msgspec.msgpack.Decoder(SpoolRecord)


def encode_frame(record: SpoolRecord) -> bytes:
    return encode_payload(_encoder.encode(record))


def encode_payload(payload: bytes) -> bytes:
    return HEADER.pack(len(payload), crc32(payload)) + payload


def read_frames(path: Path, offset: int = 0) -> Iterator[tuple[UsageRecord, int]]:
    """The usage records among `read_records`."""
    for record, after in read_records(path, offset):
        if isinstance(record, UsageRecord):
            yield record, after


def read_records(path: Path, offset: int = 0) -> Iterator[tuple[SpoolRecord, int]]:
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


def read_captures(path: Path) -> Iterator[CaptureRecord]:
    """The whole captures of a segment, up to the first frame that is torn or damaged."""
    for payload in _payloads(path):
        with contextlib.suppress(msgspec.ValidationError):  # a kind that this version does not know
            yield _decode_capture(payload)


def _payloads(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while (header := file.read(HEADER.size)) and len(header) == HEADER.size:
            length, checksum = HEADER.unpack(header)
            payload = file.read(length) if length <= MAX_PAYLOAD else b""
            if len(payload) < length or crc32(payload) != checksum:
                return
            yield payload


def whole_bytes(path: Path) -> int:
    """How many bytes of the file are whole frames."""
    return sum(HEADER.size + len(payload) for payload in _payloads(path))


def sealed_segments(spool: Path) -> list[Path]:
    """The segments that may be ingested and then removed, oldest first, of all workers; those claimed before, too."""
    found = [path for suffix in (SEALED_SUFFIX, TAKEN_SUFFIX) for path in spool.glob(f"worker-*/*{suffix}")]
    return sorted(found, key=lambda path: (path.name, path.parent.name))


def claim(path: Path) -> Path | None:
    """Make a sealed segment the ingest's own, for good: under which path it now is. None if it is gone."""
    taken = path.with_suffix(TAKEN_SUFFIX)
    try:
        path.rename(taken)
    except FileNotFoundError:
        return None
    return taken
