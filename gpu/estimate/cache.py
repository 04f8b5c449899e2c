"""The cache of keys and values. Sizes are bytes on one rank.

Formulas as in vLLM 0.32 (v1/kv_cache_interface.py): full attention keeps every token; a layer with a window keeps the
window and what one step adds; both in whole blocks, and of a window one block more, because it need not begin where a
block does. Where layers are of several kinds they share blocks in groups of equal size, which the smallest kind gives,
so that those of the others count as if their number were a multiple of it (v1/core/kv_cache_utils.py). Latent attention
keeps the compressed vector on each rank.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from gpu.estimate.shape import ModelShape

BLOCK_TOKENS: Final = 16
_MUCH_MORE: Final = 1.5
"""Up to this many times the smallest kind's layers, the largest kind gives the size of the groups."""


def bytes_per_token(shape: ModelShape, ranks: int, element_bytes: int) -> int:
    """Of one token in all layers, were all of full attention: 2 x layers x heads x size, or the latent vector."""
    return shape.layers * _layer_bytes(shape, ranks, element_bytes)


def sequence_bytes(
    shape: ModelShape,
    ranks: int,
    element_bytes: int,
    *,
    context: int,
    step_tokens: int,
    groups: int = 1,
    block_tokens: int = BLOCK_TOKENS,
) -> int:
    """Of one sequence of `context` tokens, computed at most `step_tokens` at once; where the layers are dealt to
    `groups`, of a group that has those with the most.
    """
    kinds = Counter(shape.windows)
    tokens = {window: _blocks_of(window, context, step_tokens, block_tokens) * block_tokens for window in kinds}
    most = sorted((tokens[window] for window in shape.windows), reverse=True)[: -(-shape.layers // groups)]
    kept = Counter(most)
    padded = sum(size * count for size, count in zip(kept, _padded(list(kept.values())), strict=True))
    return _layer_bytes(shape, ranks, element_bytes) * padded


def _padded(counts: list[int]) -> list[int]:
    """The layers of each kind, as many as they count."""
    size = min(counts)
    if max(counts) < _MUCH_MORE * size:
        size = max(counts)
    return [-(-count // size) * size for count in counts]


def _layer_bytes(shape: ModelShape, ranks: int, element_bytes: int) -> int:
    if shape.latent is not None:
        return shape.latent * element_bytes
    return 2 * max(1, shape.kv_heads // ranks) * shape.head_dim * element_bytes


def _blocks_of(window: int | None, context: int, step_tokens: int, block_tokens: int) -> int:
    if window is None:
        return -(-context // block_tokens)
    return -(-min(window - 1 + step_tokens, context) // block_tokens) + 1
