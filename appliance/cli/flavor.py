"""`appliance flavor ...`"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from appliance.cli.connection import Connection
from appliance.cli.options import client_command, given, require_change
from appliance.cli.output import show_object
from appliance.cli.resources import Kind, add_delete, add_list, add_show
from appliance.cli.sizes import SIZE, readable

KIND = Kind(
    "flavor",
    "flavors",
    (
        ("NAME", "name"),
        ("DEVICES", "devices"),
        ("SHARE", "share"),
        ("VENDOR", "device_vendor"),
        ("CPUS", "cpus"),
        ("MEMORY", "memory"),
        ("TMP", "tmp"),
        ("DESCRIPTION", "description"),
        ("ID", "id"),
    ),
)
ANY = "any"


def _members(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        options = (
            click.option("--cpus", type=float, required=required, help="CPUs of one replica"),
            click.option("--memory", "memory_bytes", type=SIZE, required=required, help="memory, such as 16GiB"),
            click.option("--devices", type=int, help="how many devices [default: 0]"),
            click.option(
                "--share", "device_share", type=int, help="percent of one device, shared with others [default: 100]"
            ),
            click.option(
                "--vendor", "device_vendor", help=f"nvidia, iluvatar or cpu; {ANY} for any of them [default: {ANY}]"
            ),
            click.option("--tmp", "tmp_bytes", type=SIZE, help="space for temporary files [default: 1GiB]"),
            click.option("--description", help="what it is for"),
        )
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@click.group(help="What one replica gets.")
def flavor() -> None: ...


@flavor.command("create")
@click.argument("name")
@_members(required=True)
@client_command
def create(name: str, connection: Connection, *, as_json: bool, **members: Any) -> None:
    """Offer the size NAME."""
    show_object(connection.create(KIND.path, {"name": name} | _body(members)), as_json=as_json)


def _body(members: dict[str, Any]) -> dict[str, Any]:
    body = given(**members)
    if body.get("device_vendor") == ANY:
        body["device_vendor"] = None
    return body


def _row(item: dict[str, Any]) -> dict[str, Any]:
    share = f"{item['device_share']} %" if item["devices"] else ""
    return item | {"share": share, "memory": readable(item["memory_bytes"]), "tmp": readable(item["tmp_bytes"])}


add_list(flavor, KIND, "List the sizes that replicas come in.", _row)


add_show(flavor, KIND, "Show one flavor.")


@flavor.command("update")
@click.argument("name")
@click.option("--rename", "name_", metavar="NAME", help="its new name")
@_members(required=False)
@client_command
def update(name: str, connection: Connection, *, as_json: bool, name_: str | None, **members: Any) -> None:
    """Change a size for the replicas that start from now on."""
    body = require_change(given(name=name_) | _body(members))
    show_object(connection.patch(KIND.one(name), body), as_json=as_json)


add_delete(flavor, KIND, "Withdraw a size that no service uses.")
