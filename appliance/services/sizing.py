"""Which flavor a model gets where none is named: the smallest whose devices suffice, on what the pool has.

The guide of the field says how many devices of a server are usual: 2 below 30 billion parameters, 4 to 8 up to 70, 8 to
16 above. It is what is suggested where no flavor is known to suffice; where the estimate knows better, the estimate
decides. Without devices in the pool it is the smallest flavor, as it is for a model that no runtime serves on devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.runtimes.capability import excluded_models
from appliance.runtimes.errors import ArgumentRefused, CombinationRefused
from appliance.runtimes.spec import RuntimeSpec
from appliance.services.needs import Needs
from gpu.estimate.compatibility import refusal
from gpu.estimate.errors import EstimateImpossible
from gpu.estimate.facts import ModelFacts
from gpu.states import DeviceState, Vendor
from gpu.tables import DeviceRow, FlavorRow, NodeRow

GIB: Final = 1024**3
_BILLION: Final = 10**9
_GUIDE: Final = ((30, 2, 2), (70, 4, 8))
_MOST: Final = (8, 16)


class Guide(Struct, frozen=True, kw_only=True):
    """From `least` to `most` devices are usual for `billions` of parameters of 16 bits, which is how weights of any
    precision are counted here: by their bytes.
    """

    billions: float
    least: int
    most: int

    @property
    def text(self) -> str:
        devices = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        return f"{devices} devices are usual for {self.billions:.1f} billion parameters of 16 bits"


class Stock(NamedTuple):
    """Equal devices of one node of the pool, with the least memory that one of them has."""

    vendor: str
    model: str
    capability: str | None
    devices: int
    memory_bytes: int


class Fitted(NamedTuple):
    """A flavor with the runtime that serves the model on it, and what a replica needs."""

    flavor: FlavorRow
    runtime: RuntimeSpec
    needs: Needs


Fit = Callable[[FlavorRow], Fitted]
"""Raises `CombinationRefused`, `ArgumentRefused` or `EstimateImpossible` where the flavor will not do."""


def guide(weight_bytes: int) -> Guide:
    billions = weight_bytes / 2 / _BILLION
    for below, least, most in _GUIDE:
        if billions < below or (below == _GUIDE[-1][0] and billions <= below):
            return Guide(billions=billions, least=least, most=most)
    return Guide(billions=billions, least=_MOST[0], most=_MOST[1])


def guide_of(facts: ModelFacts) -> Guide:
    return guide(facts.weights.total_bytes)


async def stock_of(session: AsyncSession, pool_id: str) -> list[Stock]:
    """The devices of the pool, whoever holds them now; those that are gone are not its devices."""
    kind: tuple[Any, ...] = (DeviceRow.node_id, DeviceRow.vendor, DeviceRow.model, DeviceRow.compute_capability)
    query = (
        select(*kind, func.count(), func.min(DeviceRow.memory_bytes))
        .join(NodeRow, NodeRow.id == DeviceRow.node_id)
        .where(func.coalesce(DeviceRow.pool_id, NodeRow.pool_id) == pool_id)
        .where(DeviceRow.state != DeviceState.absent.value)
        .group_by(*kind)
    )
    return sorted(set(map(Stock._make, [row[1:] for row in await session.execute(query)])), key=str)


def smallest(flavors: Sequence[FlavorRow], stock: Sequence[Stock], fit: Fit, facts: ModelFacts, pool: str) -> Fitted:
    """The suggestion, its reason in `needs.reason`; raises what `fit` raises where no flavor will do.

    `flavors` begins with the smallest.
    """
    if not stock:
        return _because(fit(flavors[0]), f"the smallest flavor: pool {pool} has no devices that the tenant may use")
    known = guide_of(facts)
    with_devices = [flavor for flavor in flavors if flavor.devices]
    fitted, is_served = _fitted(with_devices, fit)
    for candidate in fitted:
        if (found := _sufficient(candidate, facts.config, stock)) is not None:
            return _because(candidate, _told(candidate, found, pool, known))
    if not is_served:
        return _because(fit(flavors[0]), "the smallest flavor: no runtime that may serve the model runs on devices")
    usual = [flavor for flavor in with_devices if flavor.devices >= known.least]
    chosen = usual[0] if usual else with_devices[-1]
    return _because(fit(chosen), f"no flavor's devices suffice on what pool {pool} has; {known.text}")


def _fitted(flavors: Sequence[FlavorRow], fit: Fit) -> tuple[list[Fitted], bool]:
    """Those that will do, and whether some runtime would serve the model on devices at all."""
    fitted: list[Fitted] = []
    is_served = False
    for flavor in flavors:
        try:
            fitted.append(fit(flavor))
        except CombinationRefused:
            continue  # another flavor's vendor may do
        except (EstimateImpossible, ArgumentRefused):
            pass  # such as heads that so many devices do not divide; another count may do
        is_served = True
    return fitted, is_served


def _sufficient(candidate: Fitted, config: Mapping[str, Any], stock: Sequence[Stock]) -> Stock | None:
    """The smallest devices that will do."""
    flavor, runtime, needs = candidate
    excluded = excluded_models(runtime, ((each.vendor, each.model) for each in stock))
    good = [
        each
        for each in stock
        if each.devices >= flavor.devices
        and each.vendor in runtime.vendors
        and flavor.device_vendor in (None, each.vendor)
        and each.model not in excluded
        and each.memory_bytes * flavor.device_share // 100 >= needs.device_memory_bytes
        and (each.vendor != Vendor.nvidia or refusal(config, each.capability) is None)
    ]
    return min(good, key=lambda each: (each.memory_bytes, each.model), default=None)


def _told(candidate: Fitted, found: Stock, pool: str, known: Guide) -> str:
    needed, has = (f"{size / GIB:.1f} GiB" for size in (candidate.needs.device_memory_bytes, found.memory_bytes))
    return (
        f"the smallest flavor that suffices: a device needs {needed}, and pool {pool} has {found.model} with {has}; "
        f"by the guide {known.text}"
    )


def _because(fitted: Fitted, reason: str) -> Fitted:
    return fitted._replace(needs=replace(fitted.needs, reason=reason))
