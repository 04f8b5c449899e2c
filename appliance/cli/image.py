"""`appliance image ...`"""

from __future__ import annotations

from typing import Any

import click

from appliance.cli.connection import Connection, segment
from appliance.cli.errors import CommandFailed
from appliance.cli.options import client_command, confirm, limit_option, yes_option
from appliance.cli.output import show_done, show_list, show_object

COLUMNS = (
    ("RUNTIME", "runtime"),
    ("REFERENCE", "reference"),
    ("VERSION", "engine_version"),
    ("DEFAULT", "is_default"),
    ("ID", "id"),
)


@click.group(help="Images of the engines.")
def image() -> None: ...


@image.command("list")
@click.option("--runtime", help="only those of this runtime")
@limit_option
@client_command
def list_(connection: Connection, *, as_json: bool, runtime: str | None, limit: int | None) -> None:
    """List the images that were registered, then each runtime's own."""
    show_list(connection.pages("images", limit=limit, runtime=runtime), COLUMNS, as_json=as_json)


@image.command("show")
@click.argument("name", metavar="REFERENCE")
@client_command
def show(name: str, connection: Connection, *, as_json: bool) -> None:
    """Show one image, by its reference or id."""
    show_object(_find(connection, name), as_json=as_json)


def _find(connection: Connection, name: str) -> dict[str, Any]:
    for found in connection.pages("images"):
        if name in (found["id"], found["reference"]):
            return dict(found)
    raise CommandFailed(f"there is no image {name!r}; `appliance image list` shows those that there are")


@image.command("register")
@click.argument("reference")
@click.option("--runtime", required=True, help="the runtime that it holds")
@click.option("--engine-version", required=True, help="the version of the engine in it")
@client_command
def register(reference: str, connection: Connection, *, as_json: bool, runtime: str, engine_version: str) -> None:
    """Offer another image of a runtime: repository:tag, with @sha256:... to pin the content."""
    body = {"runtime": runtime, "reference": reference, "engine_version": engine_version}
    show_object(connection.create("images", body), as_json=as_json)


@image.command("delete")
@click.argument("name", metavar="REFERENCE")
@yes_option
@client_command
def delete(name: str, connection: Connection, *, as_json: bool, yes: bool) -> None:
    """Offer a registered image no longer, by its reference or id; running services keep it."""
    found = _find(connection, name)
    if found["id"] is None:
        raise CommandFailed(f"{name} comes with the runtime {found['runtime']} and cannot be withdrawn")
    confirm(f"Withdraw image {found['reference']}?", yes=yes)
    connection.delete(f"images/{segment(found['id'])}")
    show_done("image", found["reference"], "withdrawn", as_json=as_json)
