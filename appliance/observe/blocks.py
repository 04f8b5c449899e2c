"""The packed form of a stretch of samples: one series, its times, and a column for each of its gauges.

    zlib( b"T1" | samples: u32 | columns: u16 | shuffled( times, column 1, column 2, ... ) )

Numbers are little-endian. Times and columns are signed 64-bit differences, each to the value before it in its own
column (the first to 0); a value that is not known is -2^63 and passed over by the differences. `shuffled` puts the
first bytes of all numbers before all second bytes and so on: differences are small, so most of what follows is zeros,
which zlib takes away. A sample of six gauges of a busy device takes about 5 bytes.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

_HEAD: Final = struct.Struct("<2sIH")
_MAGIC: Final = b"T1"
_ABSENT: Final = -(1 << 63)
_WIDTH: Final = 8
_MOST: Final = 64 * 1024 * 1024
"""Bytes that a block may unpack to: a damaged one must not take the memory."""

Values = Sequence[int | None]
"""One for each gauge, None: not known."""


class DamagedBlock(ValueError):
    """These bytes are no block."""


def pack(samples: Mapping[int, Values]) -> bytes:
    """`samples` by their times (Unix seconds), each with as many values. Values lie within 62 bits."""
    times = sorted(samples)
    columns = zip(*(samples[at] for at in times), strict=True)
    numbers = array("q", _differences(times))
    width = 0
    for column in columns:
        numbers.extend(_differences(column))
        width += 1
    if sys.byteorder == "big":
        numbers.byteswap()
    raw = numbers.tobytes()
    shuffled = b"".join(raw[at::_WIDTH] for at in range(_WIDTH))
    return zlib.compress(_HEAD.pack(_MAGIC, len(times), width) + shuffled)


def unpack(block: bytes) -> dict[int, Values]:
    """The samples by their times. `DamagedBlock` if it is none."""
    try:
        unpacking = zlib.decompressobj()
        whole = unpacking.decompress(block, _MOST)
        magic, count, width = _HEAD.unpack_from(whole)
    except (zlib.error, struct.error) as error:
        raise DamagedBlock(str(error)) from error
    shuffled = whole[_HEAD.size :]
    size = count * (width + 1)
    if magic != _MAGIC or not unpacking.eof or len(shuffled) != size * _WIDTH:
        raise DamagedBlock("its length is not that of its samples")
    raw = bytearray(len(shuffled))
    for at in range(_WIDTH):
        raw[at::_WIDTH] = shuffled[at * size : (at + 1) * size]
    numbers = array("q")
    numbers.frombytes(bytes(raw))
    if sys.byteorder == "big":
        numbers.byteswap()
    columns = [_sums(numbers[at * count : (at + 1) * count]) for at in range(width + 1)]
    return {at: values for at, *values in zip(*columns, strict=True) if at is not None}


def _differences(column: Iterable[int | None]) -> list[int]:
    last, differences = 0, []
    for value in column:
        if value is None:
            differences.append(_ABSENT)
        else:
            differences.append(value - last)
            last = value
    return differences


def _sums(column: Iterable[int]) -> list[int | None]:
    last, values = 0, list[int | None]()
    for difference in column:
        if difference == _ABSENT:
            values.append(None)
        else:
            last += difference
            values.append(last)
    return values
