"""The cache of keys and values. Sizes are bytes on one rank.

Formulas as in vLLM (v1/kv_cache_interface.py): full attention keeps every token; a layer with a window keeps the
window and what one step adds, at most every token; both in whole blocks. Latent attention keeps the compressed vector
on each rank.
"""

from __future__ import annotations

from typing import Final

from gpu.estimate.shape import ModelShape

BLOCK_TOKENS: Final = 16


def bytes_per_token(shape: ModelShape, ranks: int, element_bytes: int) -> int:
    """Of one token in all layers, were all of full attention: 2 x layers x heads x size, or the latent vector."""
    return shape.layers * _layer_bytes(shape, ranks, element_bytes)


def sequence_bytes(
    shape: ModelShape, ranks: int, element_bytes: int, *, context: int, step_tokens: int, groups: int = 1
) -> int:
    """Of one sequence of `context` tokens, computed at most `step_tokens` at once; where the layers are dealt to
    `groups`, of a group that has those with the most.
    """
    layer = _layer_bytes(shape, ranks, element_bytes)
    kept = sorted((_tokens(window, context, step_tokens) for window in shape.windows), reverse=True)
    return layer * sum(kept[: -(-shape.layers // groups)])


def _layer_bytes(shape: ModelShape, ranks: int, element_bytes: int) -> int:
    if shape.latent is not None:
        return shape.latent * element_bytes
    return 2 * max(1, shape.kv_heads // ranks) * shape.head_dim * element_bytes


def _tokens(window: int | None, context: int, step_tokens: int) -> int:
    if window is None:
        return _blocks(context) * BLOCK_TOKENS
    kept = min(window - 1 + step_tokens, context)
    # One block more, because the window need not begin where a block does.
    return min(_blocks(kept) + 1, _blocks(context)) * BLOCK_TOKENS


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)
