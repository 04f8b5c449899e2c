"""`appliance node ...`"""

from __future__ import annotations

from typing import Any

import click

from appliance.cli.connection import Connection
from appliance.cli.maintenance import (
    add_maintenance,
    disposition,
    label_option,
    labels_of,
    with_label_option,
)
from appliance.cli.options import client_command, limit_option
from appliance.cli.output import show_list, show_object
from appliance.cli.resources import Kind, add_show
from appliance.cli.sizes import readable

KIND = Kind(
    "node",
    "nodes",
    (
        ("NAME", "name"),
        ("STATE", "state"),
        ("POOL", "pool_id"),
        ("CPUS", "cpus"),
        ("MEMORY", "memory"),
        ("DEVICES", "devices"),
        ("REPLICAS", "replicas"),
        ("OPEN", "open"),
        ("REASON", "why"),
        ("ID", "id"),
    ),
)


@click.group(help="Nodes.")
def node() -> None: ...


@node.command("list")
@click.option("--pool", help="only those of this pool")
@with_label_option
@limit_option
@client_command
def list_(
    connection: Connection, *, as_json: bool, pool: str | None, label: tuple[str, ...], limit: int | None
) -> None:
    """List nodes with what replicas have claimed of their memory."""
    items = connection.pages(KIND.path, limit=limit, pool=pool, label=list(label))
    show_list(items if as_json else map(_row, items), KIND.columns, as_json=as_json)


def _row(item: dict[str, Any]) -> dict[str, Any]:
    memory = f"{readable(item['memory_claimed'])} of {readable(item['memory_bytes'])}"
    why = (item["cordon"] or {}).get("reason") or item["reason"]
    return item | {"memory": memory, "open": disposition(item), "why": why}


add_show(node, KIND, "Show one node.")


@node.command("move")
@click.argument("name")
@click.argument("pool")
@client_command
def move(name: str, pool: str, connection: Connection, *, as_json: bool) -> None:
    """Move a node on which nothing runs to another POOL."""
    show_object(connection.patch(KIND.one(name), {"pool": pool}), as_json=as_json)


@node.command("label")
@click.argument("name")
@label_option
@client_command
def label(name: str, connection: Connection, *, as_json: bool, labels: tuple[str, ...]) -> None:
    """Give a node these labels, in place of those it has; none takes them all away."""
    show_object(connection.patch(KIND.one(name), {"labels": labels_of(labels) or {}}), as_json=as_json)


add_maintenance(node, KIND, "NAME", lambda item: int(item["replicas"]))
