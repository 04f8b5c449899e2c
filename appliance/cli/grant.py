"""`appliance grant ...`"""

from __future__ import annotations

from typing import Any

import click

from appliance.cli.connection import Connection
from appliance.cli.effects import show_effects
from appliance.cli.options import client_command, confirm, force_option, forced, given, limit_option, yes_option
from appliance.cli.output import show_done, show_list, show_object
from appliance.cli.resources import Kind, add_show
from appliance.cli.times import AHEAD

KIND = Kind(
    "grant",
    "grants",
    (
        ("TENANT", "tenant"),
        ("KIND", "kind"),
        ("OF", "target_name"),
        ("EXPIRES", "expires_at"),
        ("EXPIRED", "expired"),
        ("ID", "id"),
    ),
)
_KINDS = ("pool", "gateway", "device_class")
_ends = click.option(
    "--by",
    "ending",
    type=click.Choice(["deletion", "expiry"]),
    default="deletion",
    show_default=True,
    help="how it ends",
)


@click.group(help="Grants of dedicated pools, gateways and device classes.")
def grant() -> None: ...


@grant.command("create")
@click.argument("for_tenant", metavar="TENANT")
@click.option("--pool", help="name or id of the pool that it may use")
@click.option("--gateway", help="name or id of the gateway that it may use")
@click.option("--device-class", help="VENDOR/MODEL of the devices that it may use, and of no others than those granted")
@click.option("--expires", "expires_at", type=AHEAD, help="when it ends, such as 30d [default: never]")
@force_option
@client_command
def create(
    for_tenant: str,
    connection: Connection,
    *,
    as_json: bool,
    expires_at: str | None,
    force: bool,
    **targets: str | None,
) -> None:
    """Let TENANT use a dedicated pool or gateway, or bind it to a class of devices."""
    named = given(**targets)
    if len(named) != 1:
        raise click.UsageError("say what is granted: give one of --pool, --gateway and --device-class")
    ((kind, target),) = named.items()
    body = given(tenant=for_tenant, kind=kind, target=target, expires_at=expires_at)
    show_object(connection.create(forced(KIND.path, force=force), body), as_json=as_json)


@grant.command("list")
@click.option("--of-tenant", "tenant", help="only those of this tenant")
@click.option("--kind", type=click.Choice(_KINDS), help="only those of pools, gateways or device classes")
@click.option("--target", help="only those of this pool or gateway (id) or device class")
@limit_option
@client_command
def list_(connection: Connection, *, as_json: bool, limit: int | None, **filters: Any) -> None:
    """List grants, newest first."""
    show_list(connection.pages(KIND.path, limit=limit, **filters), KIND.columns, as_json=as_json)


add_show(grant, KIND, "Show one grant, by its id.")


@grant.command("preview")
@click.argument("name", metavar="ID")
@_ends
@client_command
def preview(name: str, connection: Connection, *, as_json: bool, ending: str) -> None:
    """Show what would have to leave if a grant ended now, and where it could go."""
    show_effects(connection.get(f"{KIND.one(name)}/preview", ending=ending), as_json=as_json)


@grant.command("update")
@click.argument("name", metavar="ID")
@click.option("--expires", "expires_at", type=AHEAD, help="when it ends, such as 30d")
@click.option("--never", is_flag=True, help="it holds until it is deleted")
@force_option
@client_command
def update(
    name: str, connection: Connection, *, as_json: bool, expires_at: str | None, never: bool, force: bool
) -> None:
    """Set when a grant ends."""
    if (expires_at is None) is not never:
        raise click.UsageError("say when it ends: --expires, or --never")
    show_object(connection.patch(forced(KIND.one(name), force=force), {"expires_at": expires_at}), as_json=as_json)


@grant.command("delete")
@click.argument("name", metavar="ID")
@force_option
@yes_option
@client_command
def delete(name: str, connection: Connection, *, as_json: bool, force: bool, yes: bool) -> None:
    """Take a grant back."""
    confirm(f"Take grant {name} back?", yes=yes)
    connection.delete(forced(KIND.one(name), force=force))
    show_done(KIND.noun, name, "deleted", as_json=as_json)
