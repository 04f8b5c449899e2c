"""Packed blocks: what goes in comes out, in little room, and damage is told."""

import math
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.observe.blocks import DamagedBlock, Values, pack, unpack

VALUES = st.none() | st.integers(-(1 << 61), 1 << 61)
SAMPLES = st.integers(0, 5).flatmap(
    lambda width: st.dictionaries(
        st.integers(0, 1 << 40), st.lists(VALUES, min_size=width, max_size=width), max_size=30
    )
)


@given(SAMPLES)
def test_what_is_packed_is_unpacked(samples: dict[int, Values]) -> None:
    assert unpack(pack(samples)) == samples


@given(SAMPLES, st.data())
def test_a_cut_or_changed_block_is_told_or_is_no_other_length(samples: dict[int, Values], data: st.DataObject) -> None:
    block = pack(samples)
    cut = block[: data.draw(st.integers(0, len(block) - 1))]
    with pytest.raises(DamagedBlock):
        unpack(cut)
    at = data.draw(st.integers(0, len(block) - 1))
    changed = block[:at] + bytes([block[at] ^ data.draw(st.integers(1, 255))]) + block[at + 1 :]
    try:
        found = unpack(changed)
    except DamagedBlock:
        return
    assert found == samples, "zlib's checksum covers all but its header's unused bits"


def test_what_unpacks_to_too_much_is_refused() -> None:
    with pytest.raises(DamagedBlock):
        unpack(zlib.compress(bytes(100_000_000)))


def test_a_busy_devices_day_takes_little_room() -> None:
    """A busy card: utilisation and power never rest, memory moves in steps."""
    samples: dict[int, Values] = {}
    for number in range(60):
        wave = round(60 + 35 * math.sin(number) + 5 * math.sin(number * 7))
        memory = 70_000_000_000 + 2_097_152 * (number // 7)
        samples[1_700_000_000 + 10 * number] = [wave, memory, 0, 72_000_000_000, 60 + wave // 10, 3000 + 20 * wave]
    assert len(pack(samples)) < 12 * len(samples)
