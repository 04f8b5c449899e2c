"""The estimate of a model version with what the sizing guide says, and what engines of its family have reported."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, structs

from appliance.models.schemas import MemoryEstimate
from appliance.services.sizing import Guide
from gpu.estimate.correction import NONE, Correction, corrected
from gpu.estimate.estimate import Estimate


class DeviceGuide(Struct, frozen=True, kw_only=True):
    """From `least` to `most` devices are usual for a model of this size; the estimate decides where there is one."""

    least: int
    most: int
    text: str


class ModelEstimate(MemoryEstimate, frozen=True, kw_only=True):
    """Where a runtime was named and its engines reported of the family, cache and overhead are by the factors of
    `correction`. `corrections` has those of every runtime.
    """

    guide: DeviceGuide
    correction: Correction
    corrections: dict[str, Correction]


def shown_guide(guide: Guide) -> DeviceGuide:
    return DeviceGuide(least=guide.least, most=guide.most, text=guide.text)


def model_estimate(
    told: MemoryEstimate, guide: Guide, corrections: Mapping[str, Correction], runtime: str | None
) -> ModelEstimate:
    correction = corrections.get(runtime, NONE) if runtime is not None else NONE
    plain = Estimate(**{name: getattr(told, name) for name in Estimate.__struct_fields__})
    return ModelEstimate(
        **structs.asdict(corrected(plain, correction)),
        refused_devices=told.refused_devices,
        guide=shown_guide(guide),
        correction=correction,
        corrections=dict(corrections),
    )
