"""What a model's files tell of its memory, read once: everything that any estimate of it needs, and small.

Whatever a header or a configuration holds, what is kept has a bounded size, and an estimate from it takes no longer for
a model with more tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

from gpu.estimate.compatibility import quantisation_of
from gpu.estimate.errors import EstimateImpossible
from gpu.estimate.shape import ModelShape, read_shape
from gpu.estimate.weights import TensorFact, Weights, add_up

_LONGEST_WORD: Final = 64
_NUMBERS: Final = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


class ModelFacts(Struct, frozen=True, kw_only=True):
    """`shape` is None where the configuration does not tell it, for the reason `unknown_shape`. `number_bytes` are
    those of one number in the model's own precision. `config` is what the configuration tells of the quantisation:
    `quantization_config` with `quant_method` and `format`, empty for a model in its original precision. `problem` is
    why the configuration or a header could not be read; what was read until then is there.
    """

    shape: ModelShape | None = None
    unknown_shape: str = ""
    weights: Weights = Weights()
    number_bytes: int = 2
    config: Mapping[str, Mapping[str, str]] = {}
    problem: str | None = None

    def known_shape(self) -> ModelShape:
        """Raise `EstimateImpossible` where it is not told."""
        if self.shape is None:
            raise EstimateImpossible(self.unknown_shape)
        return self.shape


def facts_of(config: Mapping[str, Any], tensors: Iterable[TensorFact], problem: str | None = None) -> ModelFacts:
    """Look at each tensor once."""
    shape, unknown = None, ""
    try:
        shape = read_shape(config)
    except EstimateImpossible as error:
        unknown = error.detail
    weights = add_up(tensors, shape)
    return ModelFacts(
        shape=shape,
        unknown_shape=unknown,
        weights=weights,
        number_bytes=_number_bytes(config) or weights.widest or 2,
        config=_quantisation(config),
        problem=problem,
    )


def _number_bytes(config: Mapping[str, Any]) -> int | None:
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, Mapping) else {}):
        for name in ("torch_dtype", "dtype"):
            if isinstance(told := part.get(name), str) and (known := _NUMBERS.get(told.removeprefix("torch."))):
                return known
    return None


def _quantisation(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    found = quantisation_of(config)
    if found is None:
        return {}
    told = {name: str(found.get(name, ""))[:_LONGEST_WORD] for name in ("quant_method", "format")}
    return {"quantization_config": told}
