"""What an engine takes besides weights and cache, on one rank. Bytes.

Activations follow from the shape. The other figures are our assumptions, on the high side, until what engines report is
there to correct them by.
"""

from __future__ import annotations

from typing import Final

from gpu.estimate.shape import ModelShape

MIB: Final = 1024**2
CONTEXT_BYTES: Final = 600 * MIB
"""The driver's context with the kernels of PyTorch and of the engine."""
COMMUNICATION_BYTES: Final = 512 * MIB
"""Buffers of the collectives, where there is more than one rank."""
GRAPH_BYTES_PER_LAYER: Final = 10 * MIB
_LOGIT_BYTES: Final = 4


def activations(shape: ModelShape, ranks: int, *, step_tokens: int, sequences: int, number_bytes: int = 2) -> int:
    """The peak of one step: either inside a layer (the residual, its normed copy, the projections of gate and up and
    their product, or the attention's projections), or the logits of each sequence with a copy for sampling.
    """
    width = max(3 * shape.intermediate // ranks, (shape.heads + 2 * shape.kv_heads) * shape.head_dim // ranks)
    layer = step_tokens * (3 * shape.hidden + width) * number_bytes
    logits = sequences * shape.vocabulary * 2 * _LOGIT_BYTES
    return max(layer, logits)


def graphs(shape: ModelShape) -> int:
    """Captured CUDA graphs."""
    return shape.layers * GRAPH_BYTES_PER_LAYER


def runtime(ranks: int) -> int:
    return CONTEXT_BYTES + (COMMUNICATION_BYTES if ranks > 1 else 0)
