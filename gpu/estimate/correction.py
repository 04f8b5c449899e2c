"""Estimates corrected by what engines reported after their starts. Pure.

What an engine takes is compared with what was estimated in two ratios, observed / estimated: of the cache that one
sequence takes, and of the overhead, which is everything besides weights and cache. A ratio is kept within `LEAST` and
`MOST`. What is kept rises at once to a higher ratio and comes down to a lower one by a quarter of the difference, so
that one lucky start frees little and one unlucky start is not repeated:

    kept' = r           where r >= kept
    kept' = kept + (r - kept) / 4   otherwise

A corrected estimate grows with either ratio and with each of its parts, and is never less than the weights.
"""

from __future__ import annotations

from math import ceil, isfinite
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from gpu.estimate.estimate import Estimate

LEAST: Final = 0.75
MOST: Final = 2.0
_EASING: Final = 0.25


class Correction(Struct, frozen=True, kw_only=True):
    """Factors of the cache and of the overhead, with how many starts each was taken from; 1 where there was none."""

    cache: float = 1.0
    cache_starts: int = 0
    overhead: float = 1.0
    overhead_starts: int = 0


NONE: Final = Correction()


class Report(Struct, frozen=True, kw_only=True):
    """What an engine told of one start, in bytes of one device; None where it did not tell.

    `sequence_bytes` is the cache of one sequence of the longest length, `overhead_bytes` what it takes besides its
    weights (as estimated) and its cache.
    """

    sequence_bytes: float | None = None
    overhead_bytes: float | None = None


def bounded(ratio: float) -> float:
    return min(max(ratio, LEAST), MOST)


def learned(kept: Correction, estimated: Estimate, report: Report) -> Correction:
    """The correction after one more start; `estimated` is without any correction."""
    cache = _ratio(report.sequence_bytes, estimated.sequence_bytes)
    overhead = _ratio(report.overhead_bytes, overhead_of(estimated))
    return Correction(
        cache=_moved(kept.cache, kept.cache_starts, cache),
        cache_starts=kept.cache_starts + (cache is not None),
        overhead=_moved(kept.overhead, kept.overhead_starts, overhead),
        overhead_starts=kept.overhead_starts + (overhead is not None),
    )


def corrected(estimated: Estimate, correction: Correction, *, cache_is_given: bool = False) -> Estimate:
    """The estimate with cache and overhead as observed; a cache whose size a person gave stays."""
    cache = 1.0 if cache_is_given else bounded(correction.cache)
    overhead = bounded(correction.overhead)
    kv_cache = ceil(estimated.kv_cache_bytes * cache)
    activations = ceil(estimated.activations_bytes * overhead)
    graphs = ceil(estimated.graphs_bytes * overhead)
    runtime = ceil(estimated.runtime_bytes * overhead)
    return replace(
        estimated,
        kv_cache_bytes=kv_cache,
        activations_bytes=activations,
        graphs_bytes=graphs,
        runtime_bytes=runtime,
        total_bytes=estimated.weights_bytes + kv_cache + activations + graphs + runtime,
    )


def overhead_of(estimated: Estimate) -> int:
    return estimated.activations_bytes + estimated.graphs_bytes + estimated.runtime_bytes


def _ratio(observed: float | None, estimated: int) -> float | None:
    if observed is None or estimated <= 0 or not isfinite(observed):
        return None
    return bounded(observed / estimated)


def _moved(kept: float, starts: int, ratio: float | None) -> float:
    if ratio is None:
        return kept
    if not starts or ratio >= kept:
        return ratio
    return kept + (ratio - kept) * _EASING
