"""What one replica of a deployment asks of a node: the vendors that run it, its devices, and the memory of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.runtimes.capability import excluded_models
from appliance.runtimes.catalog import Catalog
from appliance.runtimes.memory import device_memory
from appliance.services.tables import DeploymentRow
from gpu.requests import PlacementRequest
from gpu.snapshot import ComputeSnapshot
from gpu.tables import FlavorRow


def placement_request(
    catalog: Catalog,
    deployment: DeploymentRow,
    flavor: FlavorRow,
    model_details: Mapping[str, Any] | None,
    snapshot: ComputeSnapshot,
) -> PlacementRequest:
    """The request of one replica, of `model_details` as the version stores them; `NotFound` without its runtime."""
    runtime = catalog.get(deployment.runtime)
    weight_bytes = int((model_details or {}).get("weight_bytes", 0))
    return PlacementRequest(
        pool_id=deployment.pool_id,
        vendors=tuple(vendor for vendor in runtime.vendors if flavor.device_vendor in (None, vendor)),
        devices=flavor.devices,
        excluded_models=excluded_models(runtime, ((device.vendor, device.model) for device in snapshot.devices)),
        device_memory_bytes=device_memory(weight_bytes, flavor.devices),
        cpus=flavor.cpus,
        memory_bytes=flavor.memory_bytes,
    )
