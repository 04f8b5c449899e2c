"""`appliance model upload` and `appliance model import`: content for a version, followed until it is usable."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from appliance.cli.connection import Connection, segment
from appliance.cli.errors import CommandFailed, Interrupted
from appliance.cli.options import client_command, timeout_option
from appliance.cli.output import show_object, tell
from appliance.cli.progress import Progress
from appliance.cli.upload import open_or_resume, read_source, send

_PAUSE_S: Final = 0.2


def add_content_commands(model: click.Group) -> None:
    model.add_command(upload)
    model.add_command(import_)


def _version_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        timeout_option,
        click.option("--wait/--no-wait", default=True, show_default=True, help="wait until the version is checked"),
        click.option("--tag", "kind", flag_value="tag", help="make the version a tag, which never changes"),
        click.option("--model-version", "version", default="main", show_default=True, help="the version's name"),
    ):
        function = option(function)
    return function


@click.command("upload")
@click.argument("name")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@_version_options
@client_command
def upload(
    name: str,
    source: Path,
    connection: Connection,
    *,
    as_json: bool,
    version: str,
    kind: str | None,
    wait: bool,
    timeout: float,
) -> None:
    """Upload the folder or archive SOURCE as a version of the model NAME, which is created where there is none.

    What has arrived is kept: after an interruption give the same command again, and only the rest is sent.
    """
    content, files = read_source(source)
    _ensure_model(connection, name)
    opened = open_or_resume(connection, name, version, kind or "branch", content, files)
    try:
        made = send(connection, name, opened, files)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"what has arrived is kept until {opened['expires_at']}; give the same command again to send the rest "
            f"({opened['id']})"
        ) from error
    show_object(_settled(connection, name, made, timeout) if wait else made, as_json=as_json)


@click.command("import")
@click.argument("name")
@click.option("--from", "directory", required=True, metavar="DIR", help="a folder of the server, below an import root")
@_version_options
@client_command
def import_(
    name: str,
    connection: Connection,
    *,
    as_json: bool,
    directory: str,
    version: str,
    kind: str | None,
    wait: bool,
    timeout: float,
) -> None:
    """Import a folder of the server as a version of the model NAME, which is created where there is none."""
    _ensure_model(connection, name)
    body = {"directory": directory, "version": version, "kind": kind or "branch"}
    made = connection.create(f"models/{segment(name)}/imports", body)
    show_object(_settled(connection, name, made, timeout) if wait else made, as_json=as_json)


def _ensure_model(connection: Connection, name: str) -> None:
    if not connection.exists(f"models/{segment(name)}"):
        connection.create("models", {"name": name})
        tell(f"created model {name}")


def _settled(connection: Connection, model: str, version: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """The version once it is normal; `CommandFailed` with the reason where it failed."""
    path = f"models/{segment(model)}/versions/{version['id']}"
    deadline = time.monotonic() + timeout_s
    progress: Progress | None = None
    try:
        while version["state"] == "importing":
            if time.monotonic() > deadline:
                raise CommandFailed(f"version {version['name']} is still being imported after {timeout_s:.0f} s")
            time.sleep(_PAUSE_S)
            version = connection.get(path)
            if (told := version["progress"]) and told["bytes_total"]:
                progress = progress or Progress("storing", told["bytes_total"])
                progress.update(told["bytes_done"])
    except KeyboardInterrupt as error:
        raise Interrupted(f"the import goes on; `appliance model versions {model}` shows how it ends") from error
    if version["state"] == "failed":
        raise CommandFailed(f"version {version['name']} failed: {version['error']['detail']}")
    return version
