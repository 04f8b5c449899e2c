"""`appliance run`"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import msgspec
from sqlalchemy import make_url

from appliance.app.root import main
from appliance.cli.errors import CommandFailed
from appliance.kernel.errors import ApplianceError, Misconfigured
from appliance.kernel.settings import load


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="a settings file [env: APPLIANCE_CONFIG]")
@click.option("--check", is_flag=True, help="read the settings, print them without secrets, and end")
def run(config: Path | None, *, check: bool) -> None:
    """Start the control plane in the foreground; Ctrl-C stops everything in order."""
    try:
        settings = load(os.environ, file=config)
    except Misconfigured as error:
        raise CommandFailed(error.detail) from error
    if check:
        url = make_url(settings.database_url).render_as_string(hide_password=True)
        shown = msgspec.structs.replace(settings, database_url=url)
        click.echo(msgspec.json.format(msgspec.json.encode(shown)).decode())
        return
    try:
        sys.exit(main(settings))
    except ApplianceError as error:
        cause = error.context.get("cause")  # who starts the appliance may see what callers may not
        raise CommandFailed(f"{error.detail} ({cause})" if cause else error.detail) from error
