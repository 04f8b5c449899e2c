"""The weights that one rank of a tensor-parallel group holds, from the tensors of the safetensors headers.

Bytes are the files' own, whatever the quantisation: engines repack without growing; only what the files hold in
narrower floats than the engine computes in grows. A matrix is split evenly over the ranks, a vector is on each. Not
split are the parts of which every rank needs all: a router of experts, the compressing half of latent attention,
encoders of pictures and sound. Of keys and values a rank holds at least one head.

A model may have 100,000 tensors: they are looked at once, and added up by how they are split.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import Final, NamedTuple

from msgspec import Struct

from gpu.estimate.errors import EstimateImpossible
from gpu.estimate.shape import ModelShape

_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,9})\.")
_WHOLE: Final = re.compile(
    r"(?:^|\.)(?:q_a_proj|kv_a_proj_with_mqa|gate|router|vision_tower|vision_model|visual|audio_tower|multi_modal_projector)\."
)
_KEYS_AND_VALUES: Final = re.compile(r"(?:^|\.)(?:k_proj|v_proj)\.")
_HEAD: Final = re.compile(r"(?:^|\.)lm_head\.weight$")
_FLOATS: Final = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
"""Bytes of one number, in what a model is computed in and not quantised to."""


class TensorFact(NamedTuple):
    """One tensor of a safetensors header; `size` in bytes, `dtype` as there."""

    name: str
    shape: tuple[int, ...]
    size: int
    dtype: str = "BF16"


class Split(Enum):
    """Over how many ranks a tensor is split: all of them, as many as there are heads of keys and values, or none."""

    all = auto()
    heads = auto()
    none = auto()


class Part(NamedTuple):
    """Tensors that count alike. `float_bytes` are those of one number, 0 for what is loaded as it is."""

    in_layers: bool
    split: Split
    float_bytes: int


class Weights(Struct, frozen=True, kw_only=True):
    """`parts` in bytes, of what is loaded; `total_bytes` and `tensors` are of everything that the files have."""

    parts: Mapping[Part, int] = {}
    total_bytes: int = 0
    tensors: int = 0

    @property
    def widest(self) -> int:
        """Bytes of one number of the widest floats; 0 without any."""
        return max((part.float_bytes for part in self.parts), default=0)


def add_up(tensors: Iterable[TensorFact], shape: ModelShape | None) -> Weights:
    """`shape` None knows of no head and no layer."""
    parts: dict[Part, int] = defaultdict(int)
    total = count = 0
    for tensor in tensors:
        count += 1
        total += tensor.size
        if shape is None or not _is_left_out(tensor.name, shape):
            in_layers = _LAYER.search(tensor.name) is not None
            parts[Part(in_layers, _split(tensor), _FLOATS.get(tensor.dtype, 0))] += tensor.size
    return Weights(parts=dict(parts), total_bytes=total, tensors=count)


def weights_per_rank(
    weights: Weights, shape: ModelShape | None, ranks: int, groups: int = 1, *, number_bytes: int = 2
) -> int:
    """Bytes; raises `EstimateImpossible` where there is no tensor.

    Of the `groups` that the layers are dealt to, the one with the most of them, as if what is in no layer were all in
    it. Floats of fewer bytes than `number_bytes` take that many.
    """
    if not weights.tensors:
        raise EstimateImpossible("the model has no safetensors weights; give weight_bytes")
    layered = whole = 0
    for part, held in weights.parts.items():
        loaded = held * max(1, number_bytes // part.float_bytes) if part.float_bytes else held
        size = -(-loaded // _ranks(part.split, shape, ranks))
        if part.in_layers:
            layered += size
        else:
            whole += size
    return whole + (dealt(layered, shape.layers, groups) if shape is not None else layered)


def dealt(amount: int, layers: int, groups: int) -> int:
    """What the largest of `groups` has of an amount that `layers` take in equal parts, rounded up."""
    return -(-amount * -(-layers // groups) // layers)


def _is_left_out(name: str, shape: ModelShape) -> bool:
    """What is in the files and not loaded: a head that equals the embedding, layers that predict further tokens."""
    if shape.tied_embeddings and _HEAD.search(name):
        return True
    layer = _LAYER.search(name) if shape.predicted_layers else None
    return layer is not None and int(layer[1]) >= shape.layers


def _split(tensor: TensorFact) -> Split:
    if len(tensor.shape) < 2 or _WHOLE.search(tensor.name):
        return Split.none
    return Split.heads if _KEYS_AND_VALUES.search(tensor.name) else Split.all


def _ranks(split: Split, shape: ModelShape | None, ranks: int) -> int:
    if split is Split.none:
        return 1
    return min(ranks, shape.kv_heads) if split is Split.heads and shape is not None else ranks
