"""Histograms: how exact a quantile is, and that merging loses nothing."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.gateway.plane.histograms import RELATIVE_ERROR, Histogram, bounds, cumulative, quantile

DURATIONS = st.floats(0, 60_000, allow_nan=False)


def filled(durations: list[float]) -> Histogram:
    histogram = Histogram()
    for duration in durations:
        histogram.observe(duration)
    return histogram


@given(DURATIONS)
def test_duration_is_within_its_bucket(duration: float) -> None:
    (bucket,) = filled([duration]).buckets
    low, high = bounds(bucket)
    assert low <= int(duration * 1e6) / 1e6 < high
    assert (high - low) / 2 <= max(low * RELATIVE_ERROR, 0.5e-6) * (1 + 1e-9)


def test_buckets_follow_each_other_without_a_gap() -> None:
    for bucket in range(527):
        assert bounds(bucket)[1] == bounds(bucket + 1)[0]


@given(st.lists(DURATIONS, min_size=1), st.floats(0, 1))
def test_quantile_is_as_exact_as_promised(durations: list[float], share: float) -> None:
    exact = sorted(durations)[max(math.ceil(share * len(durations)), 1) - 1]
    told = quantile(filled(durations).buckets, share)
    assert told is not None
    assert abs(told - exact) <= exact * RELATIVE_ERROR + 1e-6


@given(st.lists(DURATIONS), st.lists(DURATIONS))
def test_merged_is_as_if_one_had_seen_all(first: list[float], second: list[float]) -> None:
    merged = filled(first)
    other = filled(second)
    merged.add(other.buckets, other.sum)
    together = filled(first + second)
    assert merged.buckets == together.buckets
    assert merged.sum == pytest.approx(together.sum)


def test_exposed_bounds_are_exact() -> None:
    chance = random.Random(3)
    durations = [chance.lognormvariate(-3, 3) for _ in range(5000)]
    exposed = dict(cumulative(filled(durations).buckets))
    assert exposed.pop("+Inf") == 5000
    for bound, count in exposed.items():
        assert count == sum(int(each * 1e6) < round(float(bound) * 1e6) for each in durations)


def test_extremes_have_a_bucket() -> None:
    histogram = filled([-1.0, 0.0, 1e12])
    assert sum(histogram.buckets.values()) == histogram.count == 3
    assert quantile(histogram.buckets, 1.0) == pytest.approx(2**36 / 1e6, rel=RELATIVE_ERROR)
    assert quantile({}, 0.5) is None
