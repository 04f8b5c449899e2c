"""The capability matrix: which runtime serves which model on which device. Pure.

High-performance mode runs on NVIDIA devices, Iluvatar ZhiKai (MR series) and CPUs; normal mode also on Iluvatar
TianGai (BI series). Encrypted and quantised models need high-performance mode. Beyond that each runtime says what it
can. A refusal says what to choose instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

from msgspec import Struct

from appliance.runtimes.errors import CombinationRefused
from appliance.runtimes.spec import Mode, RuntimeSpec

__all__ = ["CombinationRefused", "ModelTraits", "check", "check_device", "device_class", "excluded_models"]

_CLASSES: Final = {("iluvatar", "BI"): "tiangai", ("iluvatar", "MR"): "zhikai"}
_TITLES: Final = {
    "tiangai": "TianGai devices",
    "zhikai": "ZhiKai devices",
    "nvidia": "NVIDIA devices",
    "iluvatar": "Iluvatar devices",
    "cpu": "CPUs",
}


class ModelTraits(Struct, frozen=True):
    """What the matrix looks at; `architectures` as in the model's config.json."""

    formats: tuple[str, ...]
    quantised: bool = False
    encrypted: bool = False
    architectures: tuple[str, ...] = ()


def check(runtime: RuntimeSpec, vendor: str | None, traits: ModelTraits) -> None:
    """Raise `CombinationRefused` unless the runtime serves such a model on devices of `vendor` (None: any)."""
    if vendor is not None:
        check_device(runtime, vendor)
    elif set(runtime.vendors) == {"cpu"}:
        raise CombinationRefused(f"the {runtime.name} runtime runs on CPUs only; choose a flavor without devices")
    _check_protection(runtime, traits)
    if not set(traits.formats) & set(runtime.formats):
        raise CombinationRefused(
            f"the model is in format {_either(traits.formats) or 'unknown'}, the {runtime.name} runtime reads "
            f"{_either(runtime.formats)}"
        )
    _check_architectures(runtime, traits)


def check_device(runtime: RuntimeSpec, vendor: str, model: str = "") -> None:
    """Raise `CombinationRefused` unless the runtime runs on such a device; `model` as the driver names it."""
    kind = device_class(vendor, model)
    if kind == "tiangai" and runtime.mode is Mode.high_performance:
        raise CombinationRefused(
            f"TianGai devices run normal mode only; the {runtime.name} runtime runs in high-performance mode"
        )
    if vendor not in runtime.vendors or kind in runtime.excluded_classes:
        where = _either(_TITLES[name] for name in runtime.vendors if name != vendor) or "nothing else"
        what = _TITLES.get(kind, kind)
        raise CombinationRefused(f"the {runtime.name} runtime does not run on {what}, only on {where}")


def device_class(vendor: str, model: str) -> str:
    """`tiangai` or `zhikai` for Iluvatar's series, by the model's name (`BI-V150`, `Iluvatar MR-V100`); else the
    vendor.
    """
    for word in model.upper().replace("-", " ").split():
        if (kind := _CLASSES.get((vendor, word))) is not None:
            return kind
    return vendor


def excluded_models(runtime: RuntimeSpec, devices: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The device models among pairs of vendor and model that the runtime does not run on, with the reason: what
    placement is given.
    """
    excluded: dict[str, str] = {}
    for vendor, model in sorted(set(devices)):
        if vendor not in runtime.vendors:
            continue  # placement has the vendors themselves
        try:
            check_device(runtime, vendor, model)
        except CombinationRefused as refusal:
            excluded[model] = refusal.detail
    return excluded


def _check_protection(runtime: RuntimeSpec, traits: ModelTraits) -> None:
    for present, able, what in (
        (traits.encrypted, runtime.encrypted, "encrypted"),
        (traits.quantised, runtime.quantised, "quantised"),
    ):
        if present and runtime.mode is Mode.normal:
            raise CombinationRefused(
                f"the {runtime.name} runtime runs in normal mode, which cannot serve {what} models; choose vllm or "
                "another runtime in high-performance mode"
            )
        if present and not able:
            raise CombinationRefused(f"the {runtime.name} runtime cannot serve {what} models")


def _check_architectures(runtime: RuntimeSpec, traits: ModelTraits) -> None:
    for architecture in traits.architectures:
        if (reason := runtime.excluded_architectures.get(architecture)) is not None:
            raise CombinationRefused(f"the {runtime.name} runtime cannot serve {architecture}: {reason}")
    patterns = runtime.architectures
    if patterns and not any(fnmatchcase(name, pattern) for name in traits.architectures for pattern in patterns):
        names = _either(traits.architectures) or "of no known architecture"
        raise CombinationRefused(f"the model is {names}, the {runtime.name} runtime serves {_either(patterns)}")


def _either(names: Iterable[str]) -> str:
    return " or ".join(names)
