"""`appliance device ...`"""

from __future__ import annotations

from typing import Any

import click

from appliance.cli.connection import Connection
from appliance.cli.maintenance import add_maintenance, disposition
from appliance.cli.options import client_command, limit_option
from appliance.cli.output import show_list, show_object
from appliance.cli.resources import Kind, add_show
from appliance.cli.sizes import readable

WHOLE = 100
KIND = Kind(
    "device",
    "devices",
    (
        ("ID", "id"),
        ("NODE", "node_id"),
        ("INDEX", "index"),
        ("MODEL", "model"),
        ("MEMORY", "memory"),
        ("USED", "used"),
        ("FOREIGN", "foreign"),
        ("LOAD", "load"),
        ("TEMP", "heat"),
        ("POOL", "pool_id"),
        ("STATE", "state"),
        ("OPEN", "open"),
        ("REPLICAS", "holders"),
        ("REASON", "why"),
    ),
)


@click.group(help="Devices.")
def device() -> None: ...


@device.command("list")
@click.option("--node", help="only those of this node")
@click.option("--pool", help="only those of this pool")
@limit_option
@client_command
def list_(connection: Connection, *, as_json: bool, node: str | None, pool: str | None, limit: int | None) -> None:
    """List devices with their state and who leases them."""
    items = connection.pages(KIND.path, limit=limit, node=node, pool=pool)
    show_list(items if as_json else map(_row, items), KIND.columns, as_json=as_json)


def _row(item: dict[str, Any]) -> dict[str, Any]:
    return item | {
        "memory": readable(item["memory_bytes"]),
        "used": _size(item["memory_used_bytes"]),
        "foreign": _size(item["memory_foreign_bytes"]),
        "load": _with_unit(item, "utilisation_percent", "%"),
        "heat": _with_unit(item, "temperature_c", "C"),
        "open": disposition(item),
        "holders": ", ".join(_holder(lease) for lease in item["leases"]),
        "why": item["reason"] or (item["cordon"] or {}).get("reason"),
    }


def _holder(lease: dict[str, Any]) -> str:
    share = f" ({lease['share']} %)" if lease["share"] < WHOLE else ""
    return f"{lease['replica_id']}{share}"


def _size(amount: int | None) -> str:
    return "-" if amount is None else readable(amount)


def _with_unit(item: dict[str, Any], gauge: str, unit: str) -> str:
    amount = (item["gauges"] or {}).get(gauge)
    return "-" if amount is None else f"{amount} {unit}"


add_show(device, KIND, "Show one device, by its id.")


@device.command("fence")
@click.argument("name", metavar="ID")
@click.option("--reason", required=True, help="why it is taken out; shown to everyone who asks")
@client_command
def fence(name: str, connection: Connection, *, as_json: bool, reason: str) -> None:
    """Take a device out: it gets no new lease, and the replica that holds it is replaced."""
    show_object(connection.post(f"{KIND.one(name)}/fence", {"reason": reason}), as_json=as_json)


@device.command("clear")
@click.argument("name", metavar="ID")
@client_command
def clear(name: str, connection: Connection, *, as_json: bool) -> None:
    """Lift a fence; uncorrected errors that are known by now are accepted."""
    show_object(connection.post(f"{KIND.one(name)}/clear"), as_json=as_json)


@device.command("move")
@click.argument("name", metavar="ID")
@click.argument("pool", required=False)
@click.option("--back", is_flag=True, help="to its node's pool")
@client_command
def move(name: str, pool: str | None, connection: Connection, *, as_json: bool, back: bool) -> None:
    """Move a device that nobody leases, alone, to another POOL than its node's, or back."""
    if (pool is None) is not back:
        raise click.UsageError("give a POOL, or --back for the pool of the device's node")
    show_object(connection.patch(KIND.one(name), {"pool": pool}), as_json=as_json)


add_maintenance(device, KIND, "ID", lambda item: len(item["leases"]))
