"""The header of a safetensors file, parsed and checked; the tensors themselves are not read.

Format (https://github.com/huggingface/safetensors, README, "Format"): 8 bytes N, little-endian; N bytes of UTF-8
JSON `{name: {"dtype", "shape", "data_offsets": [begin, end)}, "__metadata__": {str: str}}`, padded with blanks;
then the data. The data section is covered exactly: no hole, no overlap, nothing behind it.
"""

from __future__ import annotations

import json
import math
from typing import Any, BinaryIO, Final, NamedTuple

LARGEST_HEADER: Final = 16 * 1024 * 1024
"""Bytes; the format's own cap is 100 MB. At about 110 bytes a tensor this is 150,000 tensors in one file."""
LARGEST_RANK: Final = 16
MOST_TENSORS: Final = 300_000
"""In all files of a version; the largest models have 100,000."""

BITS: Final[dict[str, int]] = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


class SafetensorsInvalid(ValueError):
    """The file is not a well-formed safetensors file; the message says where."""


class Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class Header(NamedTuple):
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_header(file: BinaryIO, size: int) -> Header:
    """The checked header of an open file of `size` bytes, read from its beginning."""
    length_bytes = file.read(8)
    if len(length_bytes) < 8:
        raise SafetensorsInvalid(f"the file has {size} bytes, a safetensors file has at least 10")
    length = int.from_bytes(length_bytes, "little")
    if length > LARGEST_HEADER:
        raise SafetensorsInvalid(f"the header would have {length} bytes, at most {LARGEST_HEADER} are allowed")
    if length > size - 8:
        raise SafetensorsInvalid(f"the header would have {length} bytes, but the file ends after {size}")
    raw = file.read(length)
    if len(raw) < length:
        raise SafetensorsInvalid(f"the file ends within its header of {length} bytes")
    return parse_header(raw, size - 8 - length)


def parse_header(raw: bytes, data_bytes: int) -> Header:
    """Check the JSON header against the length of the data section, in bytes."""
    if not raw.startswith(b"{"):
        raise SafetensorsInvalid("the header does not begin with {")
    try:
        members = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except SafetensorsInvalid:
        raise
    except (ValueError, RecursionError) as error:
        raise SafetensorsInvalid(f"the header is not valid JSON: {error}") from error
    metadata = _metadata(members.pop("__metadata__", {}))
    tensors = {name: _tensor(name, value) for name, value in members.items()}
    _check_coverage(tensors, data_bytes)
    return Header(tensors, metadata)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise SafetensorsInvalid("the header names something twice")
    return members


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise SafetensorsInvalid("__metadata__ is not a map of strings to strings")
    return value


def _tensor(name: str, value: Any) -> Tensor:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise SafetensorsInvalid(f"tensor {name[:80]!r} does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise SafetensorsInvalid(f"tensor {name[:80]!r} has the unknown dtype {str(dtype)[:40]!r}")
    if not _is_sizes(shape) or len(shape) > LARGEST_RANK:
        raise SafetensorsInvalid(f"tensor {name[:80]!r} has a shape that is not a list of sizes")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise SafetensorsInvalid(f"tensor {name[:80]!r} has data_offsets that are not [begin, end]")
    tensor = Tensor(dtype, tuple(shape), offsets[0], offsets[1])
    bits = tensor.elements * BITS[dtype]
    if bits % 8 or bits // 8 != tensor.end - tensor.begin:
        raise SafetensorsInvalid(
            f"tensor {name[:80]!r}: {tensor.elements} elements of {dtype} do not fill "
            f"bytes {tensor.begin} to {tensor.end}"
        )
    return tensor


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 63 for size in value)


def _check_coverage(tensors: dict[str, Tensor], data_bytes: int) -> None:
    """From each tensor's end to the one that begins there, and not by sorting, which holds the interpreter for all of
    its time.
    """
    at: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.begin < tensor.end and at.setdefault(tensor.begin, name) != name:
            raise SafetensorsInvalid(f"the tensors {name[:80]!r} and {at[tensor.begin][:80]!r} overlap")
    position, borders = 0, {0}
    while (reached := at.pop(position, None)) is not None:
        position = tensors[reached].end
        borders.add(position)
    if at:
        begin, what = min(at), "leaves a hole or overlaps"
        raise SafetensorsInvalid(f"tensor {at[begin][:80]!r} {what}: it begins at {begin}, not at {position}")
    for name, tensor in tensors.items():
        if tensor.begin not in borders:
            raise SafetensorsInvalid(f"tensor {name[:80]!r} has no bytes and lies within another, at {tensor.begin}")
    if position != data_bytes:
        raise SafetensorsInvalid(f"the tensors fill {position} bytes, the file holds {data_bytes}")
