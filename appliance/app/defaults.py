"""The limits of a new tenant, as the settings have them."""

from __future__ import annotations

from appliance.kernel.settings import LimitSettings
from tenants.schemas import QuotaDefaults, Trust


def quota_defaults(limits: LimitSettings, trust: Trust) -> QuotaDefaults:
    return QuotaDefaults(
        services=limits.tenant_services,
        replicas=limits.tenant_replicas,
        devices=limits.tenant_devices,
        device_memory_bytes=limits.tenant_device_memory_bytes,
        cpu_millis=1000 * limits.tenant_cpus,
        memory_bytes=limits.tenant_memory_bytes,
        storage_bytes=limits.tenant_storage_bytes,
        keys=limits.tenant_keys,
        trust=trust,
    )
