"""`appliance migrate`"""

from __future__ import annotations

import asyncio
import os

import click

from appliance.app.migrating import upgrade
from appliance.cli.errors import CommandFailed
from appliance.kernel.errors import ApplianceError
from appliance.kernel.settings import load


@click.command()
def migrate() -> None:
    """Bring the database to this release's schema; `appliance run` does the same at its start."""
    try:
        settings = load(os.environ)
        (settings.home_path / "db").mkdir(parents=True, exist_ok=True)
        asyncio.run(upgrade(settings.database_url))
    except ApplianceError as error:
        raise CommandFailed(error.detail) from error
    click.echo("the database is up to date")
