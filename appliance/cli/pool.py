"""`appliance pool ...`"""

from __future__ import annotations

from typing import Any

import click

from appliance.cli.connection import Connection
from appliance.cli.options import client_command, given, require_change
from appliance.cli.output import show_object
from appliance.cli.resources import Kind, add_delete, add_list, add_show

KIND = Kind(
    "pool",
    "pools",
    (("NAME", "name"), ("NODES", "nodes"), ("DEVICES", "groups"), ("DESCRIPTION", "description"), ("ID", "id")),
)


@click.group(help="Compute pools.")
def pool() -> None: ...


@pool.command("create")
@click.argument("name")
@click.option("--description", help="what it is for")
@client_command
def create(name: str, connection: Connection, *, as_json: bool, description: str | None) -> None:
    """Form the pool NAME; nodes are moved into it with `appliance node move`."""
    show_object(connection.create(KIND.path, given(name=name, description=description)), as_json=as_json)


def _row(item: dict[str, Any]) -> dict[str, Any]:
    groups = [f"{group['model']} ({group['free']} of {group['total']} free)" for group in item["devices"]]
    return item | {"groups": groups}


add_list(pool, KIND, "List pools with their devices, newest first.", _row)


add_show(pool, KIND, "Show one pool.")


@pool.command("update")
@click.argument("name")
@click.option("--rename", "name_", metavar="NAME", help="its new name")
@click.option("--description", help="what it is for")
@client_command
def update(name: str, connection: Connection, *, as_json: bool, name_: str | None, description: str | None) -> None:
    """Rename a pool or describe it anew."""
    body = require_change(given(name=name_, description=description))
    show_object(connection.patch(KIND.one(name), body), as_json=as_json)


add_delete(pool, KIND, "Dissolve a pool that has no nodes.")
