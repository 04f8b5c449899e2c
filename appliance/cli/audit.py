"""`appliance audit ...`"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TextIO

import click

from appliance.cli.connection import Connection
from appliance.cli.errors import CommandFailed
from appliance.cli.options import client_command, limit_option
from appliance.cli.output import show_list, show_object, tell
from appliance.cli.times import AGO

COLUMNS = (
    ("AT", "at"),
    ("ACTOR", "actor_name"),
    ("ACTION", "action"),
    ("KIND", "target_kind"),
    ("TARGET", "target_id"),
    ("DETAIL", "detail"),
)


def _filters(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--until", type=AGO, help="before then: an instant, or a time ago such as 12h"),
        click.option("--since", type=AGO, help="from then on: an instant, or a time ago such as 7d"),
        click.option("--target", help="only what was done to the object with this id"),
        click.option("--action", help="only this action, such as service.created"),
        click.option("--actor", help="only what this user or key did, by name or id"),
    ):
        function = option(function)
    return function


@click.group(help="Who did what.")
def audit() -> None: ...


@audit.command("list")
@_filters
@limit_option
@client_command
def list_(connection: Connection, *, as_json: bool, limit: int | None, **filters: str | None) -> None:
    """List what was changed, the latest first (without --limit: all of it)."""
    show_list(connection.pages("audit", limit=limit, **filters), COLUMNS, as_json=as_json)


@audit.command("export")
@_filters
@click.option("--output", "-o", type=click.File("w", encoding="utf-8"), default="-", help="[default: standard output]")
@client_command
def export(connection: Connection, *, as_json: bool, output: TextIO, **filters: str | None) -> None:
    """Write the trail as JSON lines, the oldest first, with the hashes of the chain (with --json the same)."""
    del as_json
    rows = 0
    for line in connection.lines("audit/export", **filters):
        output.write(f"{line}\n")
        rows += 1
    tell(f"{rows} rows")


@audit.command("verify")
@client_command
def verify(connection: Connection, *, as_json: bool) -> None:
    """Work out the hash chain again; exit status 1 where it breaks."""
    report = connection.get("audit/chain")
    show_object(report, as_json=as_json)
    if report["broken_at"] is not None:
        raise CommandFailed(f"the chain breaks at row {report['broken_at']}: {report['reason']}")
