"""What one replica of a deployment asks of a node: the vendors that run it, its devices, and the memory of each.

The memory is what was found when the deployment was published (`services.needs`). A deployment of a release that found
nothing yet asks for the least that the weights take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from appliance.runtimes.capability import excluded_models
from appliance.runtimes.catalog import Catalog
from appliance.runtimes.errors import CombinationRefused
from appliance.runtimes.memory import device_memory
from appliance.services.tables import DeploymentRow
from gpu.estimate.compatibility import refusal
from gpu.requests import PlacementRequest, Strategy
from gpu.snapshot import ComputeSnapshot, DeviceKind
from gpu.states import Vendor
from gpu.tables import FlavorRow


def placement_request(
    catalog: Catalog,
    deployment: DeploymentRow,
    flavor: FlavorRow,
    model_details: Mapping[str, Any] | None,
    snapshot: ComputeSnapshot,
    *,
    siblings: Mapping[str, int] | None = None,
) -> PlacementRequest:
    """The request of one replica, of `model_details` as the version stores them; `siblings` counts the replicas of its
    deployment by node. Raises `NotFound` without its runtime, `CombinationRefused` where that no longer fits the
    flavor.
    """
    runtime = catalog.get(deployment.runtime)
    weight_bytes = int((model_details or {}).get("weight_bytes", 0))
    excluded = excluded_models(runtime, ((kind.vendor, kind.model) for kind in snapshot.kinds))
    quantisation = (deployment.needs or {}).get("quantisation") or {}
    vendors = tuple(vendor for vendor in runtime.vendors if flavor.device_vendor in (None, vendor))
    if not vendors:
        raise CombinationRefused(f"the {runtime.name} runtime runs on no device of {flavor.device_vendor}")
    return PlacementRequest(
        pool_id=deployment.pool_id,
        vendors=vendors,
        devices=flavor.devices,
        device_share=flavor.device_share,
        excluded_models=incapable_models(quantisation, snapshot.kinds) | excluded,
        device_memory_bytes=deployment.device_memory_bytes or device_memory(weight_bytes, flavor.devices),
        cpus=flavor.cpus,
        memory_bytes=flavor.memory_bytes,
        node_labels=deployment.node_labels or {},
        strategy=Strategy(deployment.strategy),
        siblings=siblings or {},
    )


def incapable_models(quantisation: Mapping[str, str], devices: Iterable[DeviceKind]) -> dict[str, str]:
    """By model of device, why NVIDIA's cannot compute in a model's quantisation; the others do not tell what they
    can.
    """
    if not quantisation:
        return {}
    config = {"quantization_config": quantisation}
    kinds = {(device.model, device.compute_capability) for device in devices if device.vendor == Vendor.nvidia}
    return {model: reason for model, capability in kinds if (reason := refusal(config, capability)) is not None}
