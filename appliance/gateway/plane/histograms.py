"""Histograms of durations that can be added: over workers, minutes and machines, without losing precision.

The buckets are log-linear, in whole microseconds v: below 32 each v has its own bucket; above, each power of two is
divided into 16 equal buckets. So a bucket's middle is within 1/32 (3.2 %) of every duration in it, or within half a
microsecond; durations of 2^36 us (19 h) and more share the last bucket. Buckets that hold nothing take no room.

Powers of two from 16 us on are bounds of buckets, so a classic Prometheus histogram with such bounds is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from appliance.gateway.plane.schemas.records import Durations

RELATIVE_ERROR: Final = 1 / 32

_SUB_BITS: Final = 4
_EXACT_BITS: Final = _SUB_BITS + 1
_MAX_MICROSECONDS: Final = (1 << 36) - 1
_EXPOSED: Final = range(10, 30)
"""1.024 ms to 537 s, each the double of the one before."""


class Histogram:
    """Empty at first. Seconds."""

    __slots__ = ("buckets", "sum")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.sum = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count a duration; one below zero (a clock's doing) is zero."""
        value = int(seconds * 1e6)
        if value < 32:
            bucket = max(value, 0)
        else:
            value = min(value, _MAX_MICROSECONDS)
            shift = value.bit_length() - _EXACT_BITS
            bucket = (shift << _SUB_BITS) + (value >> shift)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + times
        self.sum += seconds * times

    def add(self, buckets: Mapping[int, int], sum_s: float) -> None:
        """Merge another's buckets."""
        mine = self.buckets
        for bucket, count in buckets.items():
            mine[bucket] = mine.get(bucket, 0) + count
        self.sum += sum_s

    def merge(self, other: Histogram) -> None:
        self.add(other.buckets, other.sum)

    @property
    def count(self) -> int:
        return sum(self.buckets.values())

    def durations(self) -> Durations:
        """The form that crosses to the control plane; it shares nothing with this one."""
        return Durations(dict(self.buckets), self.sum)


def bounds(bucket: int) -> tuple[float, float]:
    """From (inclusive) and up to (exclusive) which seconds a bucket reaches."""
    if bucket < 1 << _EXACT_BITS:
        return bucket / 1e6, (bucket + 1) / 1e6
    shift = (bucket >> _SUB_BITS) - 1
    low = (bucket - (shift << _SUB_BITS)) << shift
    return low / 1e6, (low + (1 << shift)) / 1e6


def quantile(buckets: Mapping[int, int], share: float) -> float | None:
    """The duration, in seconds, that `share` (0 to 1) of those counted do not exceed; None without any.

    It is the middle of the bucket that holds the nearest rank: within `RELATIVE_ERROR` of that duration.
    """
    total = sum(buckets.values())
    if not total:
        return None
    rank = max(share * total, 1.0)
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= rank:
            low, high = bounds(bucket)
            return (low + high) / 2
    raise AssertionError("unreachable: the counts add up to the total")


def cumulative(buckets: Mapping[int, int]) -> Iterator[tuple[str, int]]:
    """The `le` bounds (seconds) of a classic Prometheus histogram and the counts up to them, `+Inf` last."""
    waiting = sorted(buckets.items(), reverse=True)
    count = 0
    for bound, text in _LE:
        while waiting and waiting[-1][0] < bound:
            count += waiting.pop()[1]
        yield text, count
    yield "+Inf", count + sum(inside for _, inside in waiting)


def _first_bucket(power: int) -> int:
    """The bucket that begins at 2^power microseconds."""
    return (power - _SUB_BITS + 1) << _SUB_BITS


_LE: Final = [(_first_bucket(power), f"{(1 << power) / 1e6:.6f}") for power in _EXPOSED]
