"""What config.json tells of a model's shape, as far as memory depends on it.

Names are those of Hugging Face transformers' configurations. Each is untrusted: a value of the wrong type is absent,
and what then is not known is an error rather than a guess. Where the file leaves it open which layers have a sliding
window, all are taken to attend to everything, which is the upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from gpu.estimate.errors import EstimateImpossible

_LARGEST: Final = 1 << 40
_MOST_LAYERS: Final = 4096
_MOST_STRETCH: Final = 1024
_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim", "d_ff"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "multi_query_group_num"),
    "vocabulary": ("vocab_size", "padded_vocab_size"),
    "positions": ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "model_max_length"),
}
_UNUSUAL: Final = ("mamba", "ssm", "state_size", "rwkv", "linear_num", "linear_conv", "xlstm", "rglru", "lru_width")
"""Beginnings of the names by which a configuration tells of layers whose state is no cache of keys and values."""
_FULL, _SLIDING = "full_attention", "sliding_attention"


class ModelShape(Struct, frozen=True, kw_only=True):
    """`windows` has the sliding window of each layer in tokens, None where the layer attends to everything.

    `latent` is what one token of multi-head latent attention (MLA) takes in each layer: the rank of the compressed keys
    and values and the rotary part, in elements; None without it.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    positions: int | None
    windows: tuple[int | None, ...]
    latent: int | None
    tied_embeddings: bool
    predicted_layers: int


def read_shape(config: Mapping[str, Any]) -> ModelShape:
    """Raise `EstimateImpossible` where the cache of keys and values does not follow from the configuration."""
    inner = config.get("text_config")
    parts = [inner, config] if isinstance(inner, Mapping) else [config]
    _refuse_unusual(parts)
    layers, hidden = _needed(parts, "layers"), _needed(parts, "hidden")
    if layers > _MOST_LAYERS:
        raise EstimateImpossible(f"config.json tells of {layers} layers, which no model has; give kv_bytes_per_token")
    heads = _needed(parts, "heads")
    rank, rotary = _figure(parts, ("kv_lora_rank",)), _figure(parts, ("qk_rope_head_dim",))
    return ModelShape(
        layers=layers,
        hidden=hidden,
        intermediate=_figure(parts, _NAMES["intermediate"]) or 4 * hidden,
        heads=heads,
        kv_heads=_figure(parts, _NAMES["kv_heads"]) or heads,
        head_dim=_figure(parts, ("head_dim",)) or hidden // heads,
        vocabulary=_needed(parts, "vocabulary"),
        positions=_positions(parts),
        windows=_windows(parts, layers),
        latent=rank + rotary if rank and rotary else None,
        tied_embeddings=_first(parts, "tie_word_embeddings") is True,
        predicted_layers=_figure(parts, ("num_nextn_predict_layers",)) or 0,
    )


def _refuse_unusual(parts: list[Any]) -> None:
    for part in parts:
        if part.get("is_encoder_decoder") is True:
            raise EstimateImpossible("the model has an encoder and a decoder; give kv_bytes_per_token")
        for name in part:
            if isinstance(name, str) and name.startswith(_UNUSUAL) and part[name]:
                raise EstimateImpossible(
                    f"config.json tells of layers with a state of their own ({name}); give kv_bytes_per_token"
                )


def _positions(parts: list[Any]) -> int | None:
    """The longest context: what the positions were trained for, times the factor that they are stretched by, as in vLLM
    (config/model.py, `_get_and_verify_max_len`): `longrope` and `llama3` have the factor in the positions already.
    """
    positions = _figure(parts, _NAMES["positions"])
    stretched = _first(parts, "rope_scaling") or _first(parts, "rope_parameters")
    if positions is None or not isinstance(stretched, Mapping):
        return positions
    kind, factor = stretched.get("rope_type", stretched.get("type")), stretched.get("factor")
    if kind not in ("yarn", "linear", "dynamic") or not isinstance(factor, int | float):
        return positions
    if not 1 <= factor <= _MOST_STRETCH:
        return positions
    if kind == "yarn":
        positions = _figure([stretched], ("original_max_position_embeddings",)) or positions
    return int(positions * factor)


def _windows(parts: list[Any], layers: int) -> tuple[int | None, ...]:
    window = _figure(parts, ("sliding_window",))
    kinds = _first(parts, "layer_types")
    if kinds is not None:
        return _by_kind(kinds, window, layers)
    if window is None or _first(parts, "use_sliding_window") is False:
        return (None,) * layers
    if pattern := _figure(parts, ("sliding_window_pattern",)):
        return tuple(None if (layer + 1) % pattern == 0 else window for layer in range(layers))
    return (None,) * layers


def _by_kind(kinds: Any, window: int | None, layers: int) -> tuple[int | None, ...]:
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise EstimateImpossible("layer_types of config.json does not name each layer; give kv_bytes_per_token")
    if unknown := sorted({str(kind) for kind in kinds} - {_FULL, _SLIDING}):
        raise EstimateImpossible(f"layers of kind {unknown[0][:64]!r} are not known; give kv_bytes_per_token")
    return tuple(window if kind == _SLIDING else None for kind in kinds)


def _needed(parts: list[Any], member: str) -> int:
    found = _figure(parts, _NAMES[member])
    if found is None:
        raise EstimateImpossible(f"config.json does not tell {_NAMES[member][0]}; give kv_bytes_per_token")
    return found


def _figure(parts: list[Any], names: tuple[str, ...]) -> int | None:
    for part in parts:
        for name in names:
            value = part.get(name)
            if type(value) is int and 0 < value < _LARGEST:
                return value
    return None


def _first(parts: list[Any], name: str) -> Any:
    return next((part[name] for part in parts if part.get(name) is not None), None)
