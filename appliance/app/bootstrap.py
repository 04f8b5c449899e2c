"""First facts, made at each start where they are missing: platform counters, administrator, operator key, gateway."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.app.home import Home
from appliance.gateway.operations import ensure_gateway
from appliance.gateway.ports import PortRules
from appliance.gateway.schemas import NewGateway
from appliance.kernel.clock import Clock
from appliance.kernel.crypto import Passwords
from appliance.kernel.db import Database
from appliance.kernel.files import write_secret
from appliance.kernel.settings import Settings
from gpu.inventory import Inventory
from tenants.actors import system
from tenants.bootstrap import ensure_platform
from tenants.work import Work


@dataclass(frozen=True, slots=True)
class Credentials:
    """What exists nowhere else; None unless it was made by this start."""

    admin_password: str | None


async def bootstrap(
    settings: Settings,
    home: Home,
    database: Database,
    inventory: Inventory,
    port_rules: PortRules,
    passwords: Passwords,
    clock: Clock,
) -> Credentials:
    await inventory.reconcile()
    key_file = home.path / "operator.key"
    async with database.write() as session:
        work = Work(session, system("bootstrap"), clock)
        made = await ensure_platform(
            work,
            services_limit=settings.limits.services,
            passwords=passwords,
            operator_key=key_file.read_text().strip() if key_file.exists() else None,
        )
        gateway = NewGateway(
            name=settings.gateway.name, first_port=settings.gateway.first_port, host=settings.gateway.host
        )
        await ensure_gateway(work, gateway, port_rules)
    if made.operator_key is not None:
        write_secret(key_file, f"{made.operator_key}\n".encode())
    return Credentials(made.admin_password)
