"""Estimates corrected by reports: bounded, rising at once, never below the weights."""

from hypothesis import given
from hypothesis import strategies as st

from gpu.estimate.correction import LEAST, MOST, NONE, Correction, Report, corrected, learned, overhead_of
from gpu.estimate.estimate import Estimate, Workload, estimate
from gpu.estimate.facts import facts_of
from tests.gpu.checkpoints import LLAMA2_7B
from tests.gpu.test_estimate import ONE

PLAIN = estimate(facts_of(LLAMA2_7B, ONE), Workload(context=4096, concurrency=2))
RATIOS = st.floats(min_value=0.01, max_value=100)


def report(cache: float | None = None, overhead: float | None = None) -> Report:
    return Report(
        sequence_bytes=None if cache is None else cache * PLAIN.sequence_bytes,
        overhead_bytes=None if overhead is None else overhead * overhead_of(PLAIN),
    )


def after(*reports: Report) -> Correction:
    kept = NONE
    for each in reports:
        kept = learned(kept, PLAIN, each)
    return kept


def test_without_a_report_nothing_is_corrected() -> None:
    assert after(report(), report()) == NONE
    assert corrected(PLAIN, NONE) == PLAIN


def test_what_takes_more_counts_at_once_and_what_takes_less_by_and_by() -> None:
    assert after(report(cache=1.2)) == Correction(cache=1.2, cache_starts=1)
    assert after(report(cache=1.2), report(cache=1.4)).cache == 1.4
    assert after(report(cache=1.2), report(cache=1.0)).cache == 1.15
    assert after(report(overhead=0.8)) == Correction(overhead=0.8, overhead_starts=1)
    told = corrected(PLAIN, after(report(cache=1.5, overhead=0.5)))
    assert told.kv_cache_bytes == 1.5 * PLAIN.kv_cache_bytes
    assert overhead_of(told) == 0.75 * overhead_of(PLAIN)
    assert told.weights_bytes == PLAIN.weights_bytes
    assert told.total_bytes == told.weights_bytes + told.kv_cache_bytes + overhead_of(told)


def test_a_cache_that_a_person_gave_stays() -> None:
    assert corrected(PLAIN, Correction(cache=2.0), cache_is_given=True).kv_cache_bytes == PLAIN.kv_cache_bytes


@given(st.lists(st.tuples(RATIOS, RATIOS), max_size=8))
def test_a_correction_is_bounded_and_never_below_the_weights(ratios: list[tuple[float, float]]) -> None:
    kept = after(*(report(*pair) for pair in ratios))
    assert LEAST <= kept.cache <= MOST
    assert LEAST <= kept.overhead <= MOST
    told = corrected(PLAIN, kept)
    assert told.total_bytes > told.weights_bytes == PLAIN.weights_bytes
    assert LEAST * PLAIN.kv_cache_bytes <= told.kv_cache_bytes <= MOST * PLAIN.kv_cache_bytes


@given(RATIOS, RATIOS)
def test_a_corrected_estimate_grows_with_its_factors(one: float, other: float) -> None:
    less, more = sorted((one, other))

    def total(ratio: float) -> Estimate:
        return corrected(PLAIN, after(report(ratio, ratio)))

    assert total(less).total_bytes <= total(more).total_bytes
