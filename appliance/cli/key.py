"""`appliance key ...`"""

from __future__ import annotations

import click

from appliance.cli.connection import Connection, segment
from appliance.cli.errors import CommandFailed
from appliance.cli.options import client_command, confirm, given, limit_option, yes_option
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
@click.option("--expires", "expires_at", type=AHEAD, help="an instant, or a time from now such as 30d")
@_which
@client_command
def create(
    name: str,
    connection: Connection,
    *,
    as_json: bool,
    scopes: tuple[str, ...],
    services: tuple[str, ...],
    expires_at: str | None,
    path: str,
) -> None:
    """Create the key NAME and print its secret, this once; without --scope for inference alone."""
    ids = [connection.get(f"services/{segment(service)}")["id"] for service in services]
    body = given(name=name, scopes=scopes, services=tuple(ids), expires_at=expires_at)
    made = connection.create(path, body)
    show_object(made if as_json else made["key"] | {"secret": made["secret"]}, as_json=as_json)


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
