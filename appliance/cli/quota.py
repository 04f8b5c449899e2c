"""`appliance quota ...`, which is also `appliance tenant quota ...`"""

from __future__ import annotations

from typing import Any

import click

from appliance.cli.connection import Connection, segment
from appliance.cli.options import client_command
from appliance.cli.output import show_list, show_object
from appliance.cli.sizes import SIZE, readable

PLATFORM = "platform"
QUOTA_COLUMNS = (("RESOURCE", "resource"), ("USED", "used"), ("LIMIT", "limit"))


@click.group(help="Limits of a tenant, or of the platform (TENANT `platform`).")
def quota() -> None: ...


def _choose(connection: Connection, name: str) -> None:
    if name == PLATFORM:
        connection.choose_platform()
    else:
        connection.choose_tenant(name)


@quota.command("show")
@click.argument("tenant_name", metavar="TENANT")
@client_command
def show_quotas(tenant_name: str, connection: Connection, *, as_json: bool) -> None:
    """Show what is used of each limit."""
    _choose(connection, tenant_name)
    quotas = connection.get("quotas")["items"]
    show_list(quotas if as_json else map(_sized, quotas), QUOTA_COLUMNS, as_json=as_json)


def _sized(quota: dict[str, Any]) -> dict[str, Any]:
    if not quota["resource"].endswith("_bytes"):
        return quota
    return quota | {member: readable(quota[member]) for member in ("used", "limit")}


@quota.command("set")
@click.argument("tenant_name", metavar="TENANT")
@click.argument("resource")
@click.argument("limit", type=SIZE)
@client_command
def set_quota(tenant_name: str, resource: str, limit: int, connection: Connection, *, as_json: bool) -> None:
    """Set the LIMIT of a RESOURCE: services, replicas, devices, device_memory_bytes, cpu_millis (thousandths of a CPU),
    memory_bytes, storage_bytes or keys. A size may be written as 512GiB.
    """
    _choose(connection, tenant_name)
    show_object(connection.put(f"quotas/{segment(resource)}", {"limit": limit}), as_json=as_json)
