"""Which NVIDIA devices compute in a model's quantisation, by compute capability. Pure.

The least capabilities are those of vLLM 0.32's methods (vllm/model_executor/layers/quantization, `get_min_capability`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_LEAST: Final[dict[str, tuple[int, int]]] = {
    "gptq": (6, 0),
    "gptq_marlin": (7, 5),
    "awq": (7, 5),
    "awq_marlin": (7, 5),
    "auto-round": (6, 0),
    "quark": (7, 0),
    "fp8": (7, 5),
    "fbgemm_fp8": (8, 0),
    "modelopt": (8, 0),
    "modelopt_fp4": (8, 0),
    "torchao": (7, 5),
    "mxfp4": (8, 0),
}
_REJECTED: Final = frozenset({"bitsandbytes", "gguf", "aqlm", "eetq", "hqq"})
_SCHEMES: Final[dict[str, tuple[int, int]]] = {
    "pack-quantized": (7, 5),
    "int-quantized": (7, 5),
    "marlin-24": (8, 0),
    "naive-quantized": (8, 9),
    "float-quantized": (8, 9),
    "nvfp4-pack-quantized": (9, 0),
}
"""`format` of compressed-tensors. Floats of 8 bits are computed natively from 8.9 (Ada) on."""


def quantisation_of(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """`quantization_config`, wherever the configuration has it; None for a model in its original precision."""
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, Mapping) else {}):
        for name in ("quantization_config", "compression_config"):
            if isinstance(found := part.get(name), Mapping):
                return found
    return None


def refusal(config: Mapping[str, Any], capability: str | None) -> str | None:
    """Why a device of this compute capability (`8.9`) cannot run the model; None where it can."""
    quantisation = quantisation_of(config)
    if quantisation is None:
        return None
    method = str(quantisation.get("quant_method", "")).lower()
    if method in _REJECTED:
        return f"models quantised by {method} are not served; convert the model to awq, gptq or fp8"
    least = _least(method, quantisation)
    if least is None:
        return f"the quantisation {method[:64]!r} is not known, nor what device it needs; choose another version"
    if capability is None:
        return f"{method} needs a compute capability, and the device tells none"
    if _number(capability) < least:
        needed = f"{least[0]}.{least[1]}"
        return f"{method} needs compute capability {needed} or more, the device has {capability}"
    return None


def _least(method: str, quantisation: Mapping[str, Any]) -> tuple[int, int] | None:
    if method == "compressed-tensors":
        return _SCHEMES.get(str(quantisation.get("format", "")))
    return _LEAST.get(method)


def _number(capability: str) -> tuple[int, int]:
    major, _, minor = capability.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)
