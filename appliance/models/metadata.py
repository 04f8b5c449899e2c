"""What the repository knows about a version's content: detected at import, kept with the version.

The figures come from `config.json` under the names that the model families use, the sizes from the headers of the
safetensors files, the rest from the card and `generation_config.json`. All of it is untrusted: a value of the wrong
type or out of range is taken as absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from appliance.models.card import Card
from appliance.models.safetensors import Header

LARGEST_FIGURE: Final = 1 << 40
MOST_DEFAULTS: Final = 40
FLOATS: Final = frozenset({"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})

_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "d_ff"),
    "attention_heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "multi_query_group_num"),
    "head_dim": ("head_dim",),
    "vocabulary": ("vocab_size", "padded_vocab_size"),
    "max_positions": ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "model_max_length"),
    "kv_lora_rank": ("kv_lora_rank",),
    "qk_rope_head_dim": ("qk_rope_head_dim",),
    "experts": ("num_local_experts", "n_routed_experts", "num_experts"),
}


class ModelMetadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`parameters` counts the elements of the floating-point tensors, and is None for quantised weights, where
    several parameters are packed into one element; `weight_bytes` is what the tensors take in the files.
    """

    architectures: list[str] = []
    model_type: str | None = None
    layers: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    attention_heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    vocabulary: int | None = None
    max_positions: int | None = None
    kv_lora_rank: int | None = None
    qk_rope_head_dim: int | None = None
    experts: int | None = None
    dtype: str | None = None
    quantisation: str | None = None
    parameters: int | None = None
    weight_bytes: int = 0
    elements_by_dtype: dict[str, int] = {}
    formats: list[str] = []
    has_chat_template: bool = False
    generation_defaults: dict[str, bool | int | float | str] = {}
    card: Card = msgspec.field(default_factory=Card)
    left_out: list[str] = []

    @property
    def task_type(self) -> str | None:
        return self.card.task_type or _task_of(self.architectures)

    @property
    def framework(self) -> str | None:
        return self.card.framework or ("transformers" if self.model_type else None)


def _task_of(architectures: list[str]) -> str | None:
    """The task that an architecture's class name tells, where it does."""
    endings = {
        "ForCausalLM": "text-generation",
        "LMHeadModel": "text-generation",
        "ForConditionalGeneration": "text-generation",
        "ForSequenceClassification": "text-classification",
        "ForTokenClassification": "token-classification",
        "ForQuestionAnswering": "question-answering",
        "ForImageClassification": "image-classification",
        "ForMaskedLM": "fill-mask",
    }
    for architecture in architectures:
        for ending, task in endings.items():
            if architecture.endswith(ending):
                return task
    return None


class Weights:
    """Sums over the headers of all safetensors files of a version."""

    def __init__(self) -> None:
        self.bytes = 0
        self.tensors = 0
        self.elements: dict[str, int] = {}

    def add(self, header: Header) -> None:
        self.tensors += len(header.tensors)
        for tensor in header.tensors.values():
            self.bytes += tensor.end - tensor.begin
            self.elements[tensor.dtype] = self.elements.get(tensor.dtype, 0) + tensor.elements


def detect(
    config: Mapping[str, Any], weights: Weights, *, card: Card, generation: Mapping[str, Any], has_chat_template: bool
) -> ModelMetadata:
    inner = config.get("text_config")
    layers = [config, inner] if isinstance(inner, Mapping) else [config]
    figures = {field: _figure(layers, names) for field, names in _NAMES.items()}
    quantisation = _quantisation(layers)
    floats = sum(count for dtype, count in weights.elements.items() if dtype in FLOATS)
    return ModelMetadata(
        architectures=_strings(config.get("architectures")),
        model_type=_string(config.get("model_type")),
        dtype=_first_string(layers, ("torch_dtype", "dtype")),
        quantisation=quantisation,
        parameters=floats if weights.bytes and quantisation is None else None,
        weight_bytes=weights.bytes,
        elements_by_dtype=dict(sorted(weights.elements.items())),
        formats=["safetensors"] if weights.elements else [],
        has_chat_template=has_chat_template,
        generation_defaults=_defaults(generation),
        card=card,
        **cast("Any", _completed(figures)),
    )


def _completed(figures: dict[str, int | None]) -> dict[str, int | None]:
    """Fill in what the families leave to a rule: as many kv heads as heads, head_dim = hidden / heads."""
    heads, hidden = figures["attention_heads"], figures["hidden_size"]
    if figures["kv_heads"] is None:
        figures["kv_heads"] = heads
    if figures["head_dim"] is None and heads and hidden:
        figures["head_dim"] = hidden // heads
    return figures


def _figure(layers: list[Mapping[str, Any]], names: tuple[str, ...]) -> int | None:
    for layer in layers:
        for name in names:
            value = layer.get(name)
            if type(value) is int and 0 < value < LARGEST_FIGURE:
                return value
    return None


def _quantisation(layers: list[Mapping[str, Any]]) -> str | None:
    for layer in layers:
        for key in ("quantization_config", "compression_config"):
            found = layer.get(key)
            if isinstance(found, Mapping):
                return _string(found.get("quant_method")) or "unknown"
    return None


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 128 and value.isprintable() else None


def _strings(value: Any) -> list[str]:
    return [text for item in value[:16] if (text := _string(item))] if isinstance(value, list) else []


def _first_string(layers: list[Mapping[str, Any]], names: tuple[str, ...]) -> str | None:
    return next((text for layer in layers for name in names if (text := _string(layer.get(name)))), None)


def _defaults(generation: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """The scalar sampling parameters of `generation_config.json`; token ids and bookkeeping are not defaults."""
    kept = {
        name: value
        for name, value in generation.items()
        if not name.startswith("_")
        and not name.endswith(("_token_id", "_version"))
        and (_is_number(value) or _string(value))
    }
    return dict(list(kept.items())[:MOST_DEFAULTS])


def _is_number(value: Any) -> bool:
    """A number that JSON and both databases can hold."""
    return isinstance(value, (bool, int, float)) and math.isfinite(value) and abs(value) < LARGEST_FIGURE
