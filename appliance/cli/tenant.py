"""`appliance tenant ...`"""

from __future__ import annotations

from typing import Any

import click

from appliance.cli.connection import Connection
from appliance.cli.limits import limit_options, merged, take_limits
from appliance.cli.options import client_command, given, require_change
from appliance.cli.output import show_list, show_object
from appliance.cli.quota import quota
from appliance.cli.resources import Kind, add_delete, add_list, add_show

KIND = Kind(
    "tenant",
    "tenants",
    (
        ("NAME", "name"),
        ("DISPLAY NAME", "display_name"),
        ("STATE", "state"),
        ("PRIORITY", "priority"),
        ("TRUST", "trust"),
        ("ID", "id"),
    ),
)
LIMIT_COLUMNS = (
    ("KIND", "kind"),
    ("NAME", "name"),
    ("REQUESTS", "requests"),
    ("OF", "limits.requests_per_minute"),
    ("TOKENS", "tokens"),
    ("OF", "limits.tokens_per_minute"),
    ("AT ONCE", "limits.concurrent_requests"),
    ("ID", "id"),
)


@click.group(help="Tenants and their quotas.")
def tenant() -> None: ...


_priority = click.option(
    "--priority", type=click.Choice(["low", "normal", "high"]), help="whose requests come first where some must wait"
)


_trust = click.option(
    "--trust",
    type=click.Choice(["trusted", "untrusted"]),
    help="untrusted: its replicas run only where the launcher keeps them from those of others (docker)",
)


@tenant.command("create")
@click.argument("name")
@click.option("--display-name", help="what people read [default: NAME]")
@_priority
@_trust
@limit_options
@client_command
def create(name: str, connection: Connection, *, as_json: bool, **members: Any) -> None:
    """Create the tenant NAME with the default quotas."""
    limits = merged(None, take_limits(members))
    body = given(name=name, **members) | ({"limits": limits} if limits else {})
    show_object(connection.create(KIND.path, body), as_json=as_json)


add_list(tenant, KIND, "List tenants, newest first.")
add_show(tenant, KIND, "Show one tenant.")


@tenant.command("update")
@click.argument("name")
@click.option("--display-name", help="what people read")
@click.option("--suspend", "state", flag_value="suspended", help="let its keys and logins open nothing")
@click.option("--activate", "state", flag_value="active", help="undo --suspend")
@_priority
@_trust
@limit_options
@client_command
def update(name: str, connection: Connection, *, as_json: bool, **members: Any) -> None:
    """Rename, suspend or activate a tenant, set its trust, or its limits and priority at the gateway."""
    limits = take_limits(members)
    body = given(**members)
    require_change(body | limits)

    def changed(now: Any) -> dict[str, Any]:
        return body | ({"limits": merged(now["limits"], limits)} if limits else {})

    show_object(connection.amend(KIND.one(name), changed), as_json=as_json)


add_delete(tenant, KIND, "Delete a tenant that owns nothing any more.")


@tenant.command("limits")
@client_command
def limits_(connection: Connection, *, as_json: bool) -> None:
    """Show what bounds the tenant, its services and keys at the gateways, and their use in the last minute."""
    report = connection.get("limits")
    if as_json:
        show_object(report, as_json=True)
    else:
        show_list(report["items"], LIMIT_COLUMNS, as_json=False)


tenant.add_command(quota)
