"""What a deployment's replicas count against the quotas of their tenant, while its service is to run."""

from __future__ import annotations

from appliance.services.tables import DeploymentRow
from tenants.quotas import Resource


def amounts(deployment: DeploymentRow, replicas: int) -> dict[Resource, int]:
    """Of so many replicas; by what was kept at publishing, so that as much is given back as was taken."""
    return {
        Resource.replicas: replicas,
        Resource.devices: replicas * deployment.devices,
        Resource.device_memory_bytes: replicas * deployment.devices * deployment.device_memory_bytes,
        Resource.cpu_millis: replicas * deployment.cpu_millis,
        Resource.memory_bytes: replicas * deployment.memory_bytes,
    }
