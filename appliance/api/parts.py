"""The long-lived parts that routes use besides the database; filled in by the composition root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.gateway.ports import PortRules
    from appliance.kernel.activation import Activations
    from appliance.models.repository import ModelRepository
    from appliance.observe.store import Store
    from appliance.runtimes.catalog import Catalog
    from appliance.services.creation import Publishing
    from appliance.services.discretion import HostPaths
    from appliance.services.views import Origin
    from gpu.operations import Blockers
from tenants.provisions import Provisions

ReadLog = Callable[[str, int], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Parts:
    """`origin` is what URLs of gateways are shown with; `read_log(replica_id, tail)` reads a log;
    `host_paths` are hidden from tenants; `telemetry` is the history.
    """

    activations: Activations
    catalog: Catalog
    publishing: Publishing
    models: ModelRepository
    port_rules: PortRules
    flavor_blockers: Blockers
    pool_blockers: Blockers
    origin: Origin
    read_log: ReadLog
    host_paths: HostPaths
    telemetry: Store
    tenancy: Provisions
