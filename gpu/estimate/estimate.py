"""The device memory that one replica takes on each of its devices, as a breakdown. Pure; sizes are bytes."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from gpu.estimate import cache, overhead
from gpu.estimate.errors import EstimateImpossible
from gpu.estimate.facts import ModelFacts
from gpu.estimate.shape import ModelShape
from gpu.estimate.weights import dealt, weights_per_rank

LARGEST_STEP: Final = 8192
"""Tokens that an engine computes at once at most, unless it is told otherwise."""


class Workload(Struct, frozen=True, kw_only=True):
    """What is asked of a replica: `concurrency` sequences of `context` tokens over `groups` of `ranks` devices each;
    the layers are dealt to the groups, and each layer is split over a group's ranks.

    `kv_cache_bytes` is what the engine is told to take for its cache, in place of what the sequences take.
    `kv_element_bytes` is 2, or 1 for a cache in FP8; `number_bytes` are those of a number that the engine computes in,
    to which narrower weights are widened. `step_tokens` is what the engine was told to be ready for in one step, None
    where it was not; `most_sequences` how many it takes into a step, where those are more than `concurrency`.
    `weight_bytes` and `kv_bytes_per_token` are a person's figures for one rank, in place of what the files do not tell;
    `has_graphs` is off with `--enforce-eager`.
    """

    context: int
    concurrency: int = 1
    ranks: int = 1
    groups: int = 1
    step_tokens: int | None = None
    most_sequences: int | None = None
    block_tokens: int = cache.BLOCK_TOKENS
    kv_cache_bytes: int | None = None
    kv_element_bytes: int = 2
    number_bytes: int = 2
    has_graphs: bool = True
    weight_bytes: int | None = None
    kv_bytes_per_token: int | None = None

    @property
    def sequences(self) -> int:
        """Of one step."""
        return max(self.concurrency, self.most_sequences or 0)

    @property
    def step(self) -> int:
        """Tokens of the largest step: an engine that was told measures its activations with as many, whatever comes."""
        return self.step_tokens or min(LARGEST_STEP, self.context * self.sequences)


class Estimate(Struct, frozen=True, kw_only=True):
    """Of one device. `kv_bytes_per_token` is that of full attention; `kv_cache_bytes` counts windows as they are, and
    so does `sequence_bytes`, which is the part of one sequence of the whole context.
    """

    ranks: int
    groups: int = 1
    weights_bytes: int
    kv_cache_bytes: int
    activations_bytes: int
    graphs_bytes: int
    runtime_bytes: int
    total_bytes: int
    kv_bytes_per_token: int
    sequence_bytes: int
    notes: list[str]


def estimate(facts: ModelFacts, workload: Workload) -> Estimate:
    """Raise `EstimateImpossible` with the number that is missing, or with why the model cannot be split so."""
    shape = facts.shape if workload.kv_bytes_per_token is not None else facts.known_shape()
    if shape is not None:
        check_split(shape, workload)
    if shape is not None and shape.positions is not None and workload.context > shape.positions:
        raise EstimateImpossible(
            f"a context of {workload.context} tokens is more than the model's {shape.positions}; ask for less"
        )
    weights = workload.weight_bytes
    if weights is None:
        ranks, groups = workload.ranks, workload.groups
        weights = weights_per_rank(facts.weights, shape, ranks, groups, number_bytes=workload.number_bytes)
    per_token, sequence, kv_cache = _cache(shape, workload)
    activations = graphs = 0
    if shape is not None:
        activations = overhead.activations(
            shape,
            workload.ranks,
            step_tokens=workload.step,
            sequences=min(workload.sequences, workload.step),
            number_bytes=workload.number_bytes,
        )
        graphs = dealt(overhead.graphs(shape), shape.layers, workload.groups) if workload.has_graphs else 0
    runtime = overhead.runtime(workload.ranks * workload.groups)
    return Estimate(
        ranks=workload.ranks,
        groups=workload.groups,
        weights_bytes=weights,
        kv_cache_bytes=kv_cache,
        activations_bytes=activations,
        graphs_bytes=graphs,
        runtime_bytes=runtime,
        total_bytes=weights + kv_cache + activations + graphs + runtime,
        kv_bytes_per_token=per_token,
        sequence_bytes=sequence,
        notes=list(_notes(shape, workload)),
    )


def check_split(shape: ModelShape, workload: Workload) -> None:
    """Raise `EstimateImpossible`, with the possible counts, for a number of devices that the model is not split
    over.
    """
    if shape.heads % workload.ranks:
        possible = [number for number in range(1, min(shape.heads, 64) + 1) if shape.heads % number == 0]
        raise EstimateImpossible(
            f"{shape.heads} attention heads cannot be split over {workload.ranks} devices; choose one of {possible}"
        )
    if workload.groups > shape.layers:
        raise EstimateImpossible(f"{shape.layers} layers cannot be dealt to {workload.groups} groups of devices")


def _cache(shape: ModelShape | None, workload: Workload) -> tuple[int, int, int]:
    """Bytes of one token, of one sequence, and of all."""
    if workload.kv_bytes_per_token is not None or shape is None:
        given = workload.kv_bytes_per_token or 0
        return given, given * workload.context, given * workload.context * workload.concurrency
    element = workload.kv_element_bytes
    per_token = dealt(cache.bytes_per_token(shape, workload.ranks, element), shape.layers, workload.groups)
    one = cache.sequence_bytes(
        shape,
        workload.ranks,
        element,
        context=workload.context,
        step_tokens=workload.step,
        groups=workload.groups,
        block_tokens=workload.block_tokens,
    )
    if workload.kv_cache_bytes is None:
        return per_token, one, one * workload.concurrency
    if workload.kv_cache_bytes < one:
        raise EstimateImpossible(
            f"a cache of {workload.kv_cache_bytes} bytes does not hold one sequence of {workload.context} tokens, "
            f"which takes {one}; give more, or a shorter context"
        )
    return per_token, one, workload.kv_cache_bytes


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
