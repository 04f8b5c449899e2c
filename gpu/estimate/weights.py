"""The weights that one rank of a tensor-parallel group holds, from the tensors of the safetensors headers.

Bytes are the files' own, whatever the quantisation: engines repack without growing. A matrix is split evenly over the
ranks, a vector is on each. Not split are the parts of which every rank needs all: a router of experts, the compressing
half of latent attention, encoders of pictures and sound. Of keys and values a rank holds at least one head.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from gpu.estimate.errors import EstimateImpossible
from gpu.estimate.shape import ModelShape

_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_WHOLE: Final = re.compile(
    r"(?:^|\.)(?:q_a_proj|kv_a_proj_with_mqa|gate|router|vision_tower|vision_model|visual|audio_tower|multi_modal_projector)\."
)
_KEYS_AND_VALUES: Final = re.compile(r"(?:^|\.)(?:k_proj|v_proj)\.")
_HEAD: Final = re.compile(r"(?:^|\.)lm_head\.weight$")


class TensorFact(NamedTuple):
    """One tensor of a safetensors header; `size` in bytes."""

    name: str
    shape: tuple[int, ...]
    size: int


def weights_per_rank(tensors: Iterable[TensorFact], shape: ModelShape | None, ranks: int, groups: int = 1) -> int:
    """Bytes; `shape` None knows of no head and no layer. Raises `EstimateImpossible` where there is no tensor.

    Of the `groups` that the layers are dealt to, the one with the most of them, as if what is in no layer were all in
    it.
    """
    layered = whole = count = 0
    for tensor in tensors:
        count += 1
        if shape is not None and _is_left_out(tensor.name, shape):
            continue
        size = -(-tensor.size // _parts(tensor, shape, ranks))
        if _LAYER.search(tensor.name):
            layered += size
        else:
            whole += size
    if not count:
        raise EstimateImpossible("the model has no safetensors weights; give weight_bytes")
    return whole + (dealt(layered, shape.layers, groups) if shape is not None else layered)


def dealt(amount: int, layers: int, groups: int) -> int:
    """What the largest of `groups` has of an amount that `layers` take in equal parts, rounded up."""
    return -(-amount * -(-layers // groups) // layers)


def _is_left_out(name: str, shape: ModelShape) -> bool:
    """What is in the files and not loaded: a head that equals the embedding, layers that predict further tokens."""
    if shape.tied_embeddings and _HEAD.search(name):
        return True
    layer = _LAYER.search(name)
    return bool(shape.predicted_layers and layer and int(layer[1]) >= shape.layers)


def _parts(tensor: TensorFact, shape: ModelShape | None, ranks: int) -> int:
    if len(tensor.shape) < 2 or _WHOLE.search(tensor.name):
        return 1
    if shape is not None and _KEYS_AND_VALUES.search(tensor.name):
        return min(ranks, shape.kv_heads)
    return ranks
