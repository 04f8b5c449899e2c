"""`appliance reservation ...`"""

from __future__ import annotations

from typing import Any

import click

from appliance.cli.connection import Connection
from appliance.cli.options import client_command, confirm, force_option, forced, given, limit_option, yes_option
from appliance.cli.output import show_done, show_list, show_object
from appliance.cli.resources import Kind, add_show
from appliance.cli.times import AHEAD

KIND = Kind(
    "reservation",
    "reservations",
    (
        ("TENANT", "tenant"),
        ("DEVICES", "devices"),
        ("FROM", "starts_at"),
        ("UNTIL", "ends_at"),
        ("STATE", "state"),
        ("REASON", "reason"),
        ("ID", "id"),
    ),
)


@click.group(help="Devices that are kept for a tenant for a time.")
def reservation() -> None: ...


@reservation.command("create")
@click.argument("for_tenant", metavar="TENANT")
@click.option("--devices", metavar="ID,ID,...", help="which devices")
@click.option("--pool", help="name or id of the pool of which --count equal devices are kept")
@click.option("--count", type=click.IntRange(min=1), help="how many devices of the pool")
@click.option("--device-class", metavar="VENDOR/MODEL", help="of which class they are [default: any one]")
@click.option("--from", "starts_at", type=AHEAD, help="when it begins, such as 12h [default: now]")
@click.option("--until", "ends_at", type=AHEAD, required=True, help="when it ends, such as 30d")
@click.option("--reason", required=True, help="what for; told to the tenant")
@force_option
@client_command
def create(
    for_tenant: str, connection: Connection, *, as_json: bool, devices: str | None, force: bool, **members: Any
) -> None:
    """Keep devices for TENANT: named ones, or so many of a pool."""
    ids = None if devices is None else [name.strip() for name in devices.split(",") if name.strip()]
    if bool(ids) == (members["pool"] is not None and members["count"] is not None):
        raise click.UsageError("say which devices: give --devices, or --pool and --count")
    body = given(tenant=for_tenant, devices=ids, **members)
    show_object(connection.create(forced(KIND.path, force=force), body), as_json=as_json)


@reservation.command("list")
@click.option("--of-tenant", "tenant", help="only those for this tenant")
@click.option("--device", help="only those of this device (id)")
@limit_option
@client_command
def list_(connection: Connection, *, as_json: bool, limit: int | None, **filters: Any) -> None:
    """List reservations, newest first."""
    show_list(connection.pages(KIND.path, limit=limit, **filters), KIND.columns, as_json=as_json)


add_show(reservation, KIND, "Show one reservation, by its id.")


@reservation.command("delete")
@click.argument("name", metavar="ID")
@yes_option
@client_command
def delete(name: str, connection: Connection, *, as_json: bool, yes: bool) -> None:
    """End a reservation, or forget one that is over."""
    confirm(f"End reservation {name}? Its devices are everyone's again.", yes=yes)
    connection.delete(KIND.one(name))
    show_done(KIND.noun, name, "deleted", as_json=as_json)
