"""`appliance key ...`"""

from __future__ import annotations

from typing import Any

import click

from appliance.cli.connection import Connection, segment
from appliance.cli.errors import CommandFailed
from appliance.cli.limits import limit_options, merged, take_limits
from appliance.cli.options import client_command, confirm, given, limit_option, require_change, yes_option
from appliance.cli.output import show_done, show_list, show_object
from appliance.cli.times import AHEAD

COLUMNS = (
    ("NAME", "name"),
    ("PREFIX", "prefix"),
    ("STATE", "state"),
    ("SCOPES", "scopes"),
    ("EXPIRES", "expires_at"),
    ("LAST USED", "last_used_at"),
    ("ID", "id"),
)
TENANTS, PLATFORM = "keys", "platform/keys"
_which = click.option(
    "--platform", "path", flag_value=PLATFORM, help="keys of the admin port instead of a tenant's", default=TENANTS
)


@click.group(help="API keys.")
def key() -> None: ...


@key.command("create")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, help="such as inference or service:read; may be repeated")
@click.option("--service", "services", multiple=True, help="name or id of a service it opens; may be repeated")
@click.option("--route", "routes", multiple=True, metavar="'METHOD /PATH'", help="a route it opens; may be repeated")
@click.option("--network", "networks", multiple=True, metavar="CIDR", help="where it may be used; may be repeated")
@limit_options
@click.option("--expires", "expires_at", type=AHEAD, help="an instant, or a time from now such as 30d")
@_which
@client_command
def create(
    name: str, connection: Connection, *, as_json: bool, services: tuple[str, ...], path: str, **members: Any
) -> None:
    """Create the key NAME and print its secret, this once; without --scope for inference alone."""
    limits = merged(None, take_limits(members))
    body = given(name=name, services=tuple(_ids(connection, services)), **members)
    made = connection.create(path, body | ({"limits": limits} if limits else {}))
    show_object(made if as_json else made["key"] | {"secret": made["secret"]}, as_json=as_json)


def _ids(connection: Connection, services: tuple[str, ...]) -> list[str]:
    """Of services by name; an id is taken as it is, since it may be of a service that another tenant shares."""
    return [
        service if service.startswith("svc_") else connection.get(f"services/{segment(service)}")["id"]
        for service in services
    ]


@key.command("update")
@click.argument("name")
@click.option("--service", "services", multiple=True, help="name or id of a service it opens; may be repeated")
@click.option("--any-service", is_flag=True, help="it opens every service")
@click.option("--route", "routes", multiple=True, metavar="'METHOD /PATH'", help="a route it opens; may be repeated")
@click.option("--any-route", is_flag=True, help="it opens every route")
@click.option("--network", "networks", multiple=True, metavar="CIDR", help="where it may be used; may be repeated")
@click.option("--any-network", is_flag=True, help="it may be used anywhere")
@limit_options
@client_command
def update(name: str, connection: Connection, *, as_json: bool, **options: Any) -> None:
    """Restrict a key otherwise; its secret stays. What is given takes the place of all that was there before."""
    limits = take_limits(options)
    options["services"] = tuple(_ids(connection, options["services"]))
    body: dict[str, Any] = {}
    for member in ("service", "route", "network"):
        if options[f"{member}s"] and options[f"any_{member}"]:
            raise click.UsageError(f"--{member} and --any-{member} are opposites: give one of them")
        if options[f"{member}s"] or options[f"any_{member}"]:
            body[f"{member}s"] = options[f"{member}s"]
    require_change(body | limits)

    def changed(now: Any) -> dict[str, Any]:
        return body | ({"limits": merged(now["limits"], limits)} if limits else {})

    show_object(connection.amend(f"{TENANTS}/{segment(name)}", changed), as_json=as_json)


@key.command("list")
@_which
@limit_option
@client_command
def list_(connection: Connection, *, as_json: bool, path: str, limit: int | None) -> None:
    """List keys, newest first; never their secrets."""
    show_list(connection.pages(path, limit=limit), COLUMNS, as_json=as_json)


@key.command("show")
@click.argument("name")
@_which
@client_command
def show(name: str, connection: Connection, *, as_json: bool, path: str) -> None:
    """Show one key."""
    show_object(_platform_key(connection, name) if path == PLATFORM else _get(connection, name), as_json=as_json)


def _get(connection: Connection, name: str) -> dict[str, object]:
    found: dict[str, object] = connection.get(f"{TENANTS}/{segment(name)}")
    return found


def _platform_key(connection: Connection, name: str) -> dict[str, object]:
    for found in connection.pages(PLATFORM):
        if name in (found["id"], found["name"]):
            return dict(found)
    raise CommandFailed(f"there is no platform key {name!r}")


@key.command("revoke")
@click.argument("name")
@_which
@yes_option
@client_command
def revoke(name: str, connection: Connection, *, as_json: bool, path: str, yes: bool) -> None:
    """Make a key useless at once; it stays in the list."""
    confirm(f"Revoke key {name}? Its clients are refused from then on.", yes=yes)
    show_object(connection.post(f"{path}/{segment(name)}/revoke"), as_json=as_json)


@key.command("delete")
@click.argument("name")
@_which
@yes_option
@client_command
def delete(name: str, connection: Connection, *, as_json: bool, path: str, yes: bool) -> None:
    """Delete a revoked key, which frees its name."""
    confirm(f"Delete key {name}?", yes=yes)
    connection.delete(f"{path}/{segment(name)}")
    show_done("key", name, "deleted", as_json=as_json)
