"""`appliance runtime ...`. `build` works on this machine and needs no running appliance; it is imported when called."""

from __future__ import annotations

import click

from appliance.cli.connection import Connection, segment
from appliance.cli.options import client_command
from appliance.cli.output import show_list, show_object

COLUMNS = (
    ("NAME", "name"),
    ("MODE", "mode"),
    ("VERSION", "engine_version"),
    ("VENDORS", "vendors"),
    ("LAUNCHERS", "launchers"),
    ("READY", "ready"),
    ("TITLE", "title"),
)


@click.group(help="Engines, and their environments here.")
def runtime() -> None: ...


@runtime.command("list")
@client_command
def list_(connection: Connection, *, as_json: bool) -> None:
    """List the runtimes, and whether each can be started at once."""
    show_list(connection.pages("runtimes"), COLUMNS, as_json=as_json)


@runtime.command("show")
@click.argument("name")
@client_command
def show(name: str, connection: Connection, *, as_json: bool) -> None:
    """Show what a runtime serves, on which devices, and what may be set of it."""
    show_object(connection.get(f"runtimes/{segment(name)}"), as_json=as_json)


@runtime.command("build")
@click.argument("name")
@click.option("--docker", is_flag=True, help="build the Docker image instead, from the environment built here")
@click.option("--print", "only_print", is_flag=True, help="with --docker: print the command and end")
@click.option("--json", "as_json", is_flag=True, help="print one JSON value")
def build(name: str, *, docker: bool, only_print: bool, as_json: bool) -> None:
    """Build the virtual environment of the runtime NAME on this machine.

    The process launcher starts engines from it. Packages come from where pip finds them (PIP_INDEX_URL). What is
    there and whole is left as it is.
    """
    from appliance.cli.building import build_environment, build_image  # noqa: PLC0415 - slow, and of no use elsewhere

    if only_print and not docker:
        raise click.UsageError("--print belongs to --docker")
    if docker:
        build_image(name, only_print=only_print)
    else:
        show_object(build_environment(name), as_json=as_json)
