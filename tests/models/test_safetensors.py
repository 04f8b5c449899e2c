"""The header parser: what it accepts fills the file exactly, and nothing it is given makes it fail otherwise."""

import io
import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.models.safetensors import BITS, LARGEST_HEADER, SafetensorsInvalid, parse_header, read_header
from tests.models.builders import safetensors, with_header

WHOLE_BYTES = sorted(dtype for dtype, bits in BITS.items() if bits % 8 == 0)
SHAPES = st.lists(st.integers(0, 6), max_size=4).map(tuple)
TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(WHOLE_BYTES), SHAPES),
    max_size=6,
)


def read(content: bytes):
    return read_header(io.BytesIO(content), len(content))


@given(TENSORS)
def test_a_well_formed_file_is_read_as_it_was_written(tensors: dict[str, tuple[str, tuple[int, ...]]]):
    header = read(safetensors(tensors))
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in header.tensors.items()} == tensors
    assert header.metadata == {"format": "pt"}


@given(TENSORS, st.integers(1, 64))
def test_a_file_that_is_cut_or_longer_is_refused(tensors: dict[str, tuple[str, tuple[int, ...]]], count: int):
    content = safetensors(tensors)
    for wrong in (content + bytes(count), content[:-count]):
        with pytest.raises(SafetensorsInvalid):
            read(wrong)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*BITS, "F128", 3]),
        "shape": st.lists(st.integers(-2, 5), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-2, 80), max_size=3) | JSON,
    },
)


@given(st.dictionaries(st.text(max_size=4) | st.just("__metadata__"), ENTRIES | JSON, max_size=4), st.integers(0, 80))
def test_whatever_is_accepted_covers_the_data_exactly_once(members: dict[str, Any], data_bytes: int):
    try:
        header = parse_header(json.dumps(members).encode(), data_bytes)
    except SafetensorsInvalid:
        return
    covered = sorted((tensor.begin, tensor.end) for tensor in header.tensors.values())
    assert sum(end - begin for begin, end in covered) == data_bytes
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(covered))
    for tensor in header.tensors.values():
        assert (tensor.end - tensor.begin) * 8 == math.prod(tensor.shape) * BITS[tensor.dtype]


@given(st.binary(max_size=200))
def test_noise_is_refused_and_never_crashes(noise: bytes):
    for content in (noise, with_header(b"{" + noise, noise)):
        with pytest.raises(SafetensorsInvalid):
            read(content + b"!")


def entry(begin: int, end: int, dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin], "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b"[]", "does not begin with"),
        (b"{", "not valid JSON"),
        (b'{"a": ' + b"[" * 100_000, "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (json.dumps({"a": entry(0, 4), "b": entry(2, 8)}).encode(), "overlaps"),
        (json.dumps({"a": entry(0, 4), "b": entry(6, 8)}).encode(), "hole"),
        (json.dumps({"a": entry(0, 7)}).encode(), "fill 7 bytes, the file holds 8"),
        (json.dumps({"a": {"dtype": "F4", "shape": [15], "data_offsets": [0, 8]}}).encode(), "do not fill"),
        (json.dumps({"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 8]}}).encode(), "not a list of sizes"),
        (json.dumps({"a": {"dtype": "U8", "shape": [8], "data_offsets": [8, 0]}}).encode(), "not [begin, end]"),
        (json.dumps({"a": {"dtype": "U8", "shape": [1 << 63], "data_offsets": [0, 8]}}).encode(), "list of sizes"),
        (json.dumps({"__metadata__": {"a": 1}}).encode(), "strings to strings"),
    ],
)
def test_a_malformed_header_is_refused_with_the_reason(header: bytes, reason: str):
    with pytest.raises(SafetensorsInvalid) as caught:
        read(with_header(header, bytes(8)))
    assert reason in str(caught.value)


def test_a_header_that_is_too_long_is_refused_before_it_is_read():
    with pytest.raises(SafetensorsInvalid, match="at most"):
        read_header(io.BytesIO((LARGEST_HEADER + 1).to_bytes(8, "little")), 1 << 40)


def test_sub_byte_types_are_counted_in_bits():
    header = read(safetensors({"a": ("F4", (3, 2)), "b": ("F6_E2M3", (4,))}))
    assert [tensor.end - tensor.begin for tensor in header.tensors.values()] == [3, 3]


@pytest.mark.parametrize(("begin", "is_good"), [(0, True), (2, True), (4, True), (1, False), (3, False)])
def test_a_tensor_without_bytes_lies_between_others(begin: int, is_good: bool):  # noqa: FBT001 - a table
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [begin, begin]}
    two = {name: {"dtype": "U8", "shape": [2], "data_offsets": [at, at + 2]} for name, at in (("b", 2), ("a", 0))}
    for members in ({"empty": empty, **two}, {**two, "empty": empty}):
        if is_good:
            assert len(parse_header(json.dumps(members).encode(), 4).tensors) == 3
        else:
            with pytest.raises(SafetensorsInvalid, match=f"has no bytes and lies within another, at {begin}"):
                parse_header(json.dumps(members).encode(), 4)
