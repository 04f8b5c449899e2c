"""`appliance pool ...`"""

from __future__ import annotations

from typing import Any

import click

from appliance.cli.connection import Connection
from appliance.cli.maintenance import label_option, labels_of
from appliance.cli.options import access_option, client_command, force_option, forced, given, require_change
from appliance.cli.output import show_object
from appliance.cli.resources import Kind, add_delete, add_list, add_show

KIND = Kind(
    "pool",
    "pools",
    (
        ("NAME", "name"),
        ("ACCESS", "access"),
        ("NODES", "nodes"),
        ("DEVICES", "groups"),
        ("DESCRIPTION", "description"),
        ("ID", "id"),
    ),
)


@click.group(help="Compute pools.")
def pool() -> None: ...


@pool.command("create")
@click.argument("name")
@click.option("--description", help="what it is for")
@access_option
@label_option
@client_command
def create(name: str, connection: Connection, *, as_json: bool, labels: tuple[str, ...], **members: Any) -> None:
    """Form the pool NAME; nodes are moved into it with `appliance node move`, single devices with `device move`."""
    body = given(name=name, labels=labels_of(labels), **members)
    show_object(connection.create(KIND.path, body), as_json=as_json)


def _row(item: dict[str, Any]) -> dict[str, Any]:
    groups = [f"{group['model']} ({group['free']} of {group['total']} free)" for group in item["devices"]]
    return item | {"groups": groups}


add_list(pool, KIND, "List pools with their devices, newest first.", _row)


add_show(pool, KIND, "Show one pool.")


@pool.command("update")
@click.argument("name")
@click.option("--rename", "name_", metavar="NAME", help="its new name")
@click.option("--description", help="what it is for")
@access_option
@label_option
@force_option
@client_command
def update(
    name: str,
    connection: Connection,
    *,
    as_json: bool,
    name_: str | None,
    labels: tuple[str, ...],
    force: bool,
    **members: Any,
) -> None:
    """Rename, describe or label a pool, or change who may use it."""
    body = require_change(given(name=name_, labels=labels_of(labels), **members))
    show_object(connection.patch(forced(KIND.one(name), force=force), body), as_json=as_json)


add_delete(pool, KIND, "Dissolve a pool that has no nodes.")
