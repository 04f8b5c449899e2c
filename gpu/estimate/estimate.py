"""The device memory that one replica takes on each of its devices, as a breakdown. Pure; sizes are bytes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from msgspec import Struct

from gpu.estimate import cache, overhead
from gpu.estimate.errors import EstimateImpossible
from gpu.estimate.shape import ModelShape, read_shape
from gpu.estimate.weights import TensorFact, weights_per_rank

LARGEST_STEP: Final = 8192
"""Tokens that an engine computes at once at most, unless it is told otherwise."""


class Workload(Struct, frozen=True, kw_only=True):
    """What is asked of a replica: `concurrency` sequences of `context` tokens over `ranks` devices.

    `kv_element_bytes` is 2, or 1 for a cache in FP8. `weight_bytes` and `kv_bytes_per_token` are a person's figures for
    one rank, in place of what the files do not tell; `has_graphs` is off with `--enforce-eager`.
    """

    context: int
    concurrency: int = 1
    ranks: int = 1
    step_tokens: int = LARGEST_STEP
    kv_element_bytes: int = 2
    has_graphs: bool = True
    weight_bytes: int | None = None
    kv_bytes_per_token: int | None = None


class Estimate(Struct, frozen=True, kw_only=True):
    """Of one rank. `kv_bytes_per_token` is that of full attention; `kv_cache_bytes` counts windows as they are."""

    ranks: int
    weights_bytes: int
    kv_cache_bytes: int
    activations_bytes: int
    graphs_bytes: int
    runtime_bytes: int
    total_bytes: int
    kv_bytes_per_token: int
    notes: list[str]


def estimate(config: Mapping[str, Any], tensors: Collection[TensorFact], workload: Workload) -> Estimate:
    """Raise `EstimateImpossible` with the number that is missing, or with why the model cannot be split so."""
    shape = _shape(config, workload)
    if shape is not None:
        _check_split(shape, workload.ranks)
    if shape is not None and shape.positions is not None and workload.context > shape.positions:
        raise EstimateImpossible(
            f"a context of {workload.context} tokens is more than the model's {shape.positions}; ask for less"
        )
    weights = workload.weight_bytes
    if weights is None:
        weights = weights_per_rank(tensors, shape, workload.ranks)
    per_token, kv_cache = _cache(shape, workload)
    activations = graphs = 0
    if shape is not None:
        step = min(workload.step_tokens, workload.context * workload.concurrency)
        activations = overhead.activations(shape, workload.ranks, step_tokens=step, concurrency=workload.concurrency)
        graphs = overhead.graphs(shape) if workload.has_graphs else 0
    runtime = overhead.runtime(workload.ranks)
    return Estimate(
        ranks=workload.ranks,
        weights_bytes=weights,
        kv_cache_bytes=kv_cache,
        activations_bytes=activations,
        graphs_bytes=graphs,
        runtime_bytes=runtime,
        total_bytes=weights + kv_cache + activations + graphs + runtime,
        kv_bytes_per_token=per_token,
        notes=list(_notes(shape, workload)),
    )


def _shape(config: Mapping[str, Any], workload: Workload) -> ModelShape | None:
    """None where a person gave the figure that the configuration does not tell."""
    try:
        return read_shape(config)
    except EstimateImpossible:
        if workload.kv_bytes_per_token is None:
            raise
        return None


def _check_split(shape: ModelShape, ranks: int) -> None:
    if shape.heads % ranks:
        possible = [number for number in range(1, min(shape.heads, 64) + 1) if shape.heads % number == 0]
        raise EstimateImpossible(
            f"{shape.heads} attention heads cannot be split over {ranks} devices; choose one of {possible}"
        )


def _cache(shape: ModelShape | None, workload: Workload) -> tuple[int, int]:
    if workload.kv_bytes_per_token is not None or shape is None:
        given = workload.kv_bytes_per_token or 0
        return given, given * workload.context * workload.concurrency
    element = workload.kv_element_bytes
    one = cache.sequence_bytes(
        shape, workload.ranks, element, context=workload.context, step_tokens=workload.step_tokens
    )
    return cache.bytes_per_token(shape, workload.ranks, element), one * workload.concurrency


def _notes(shape: ModelShape | None, workload: Workload) -> list[str]:
    if shape is None:
        return ["config.json does not tell the model's shape: activations and graphs are not counted"]
    notes = []
    if shape.latent is not None and workload.ranks > 1:
        notes.append("the cache of latent attention is on each device as a whole")
    elif shape.kv_heads % workload.ranks and workload.ranks % shape.kv_heads:
        notes.append(f"{shape.kv_heads} heads of keys and values are not split evenly over {workload.ranks} devices")
    elif workload.ranks > shape.kv_heads:
        notes.append(f"{shape.kv_heads} heads of keys and values are repeated on {workload.ranks} devices")
    return notes
