"""Bringing a database to this release's schema; run at each start, and by `appliance migrate`."""

from __future__ import annotations

import asyncio
import warnings

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from appliance.kernel.db import create_engine
from appliance.kernel.errors import Misconfigured
from appliance.kernel.resources import resource


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resource("migrations")))
    config.set_main_option("path_separator", "os")
    return config


async def upgrade(url: str, revision: str = "head") -> None:
    """Run what is missing; refuses a database that a newer release has migrated."""
    await _run(url, lambda connection: _upgrade(connection, revision))


async def autogenerate(url: str, message: str) -> None:
    """Write a new revision with what the tables have and the database lacks."""

    def write(connection: Connection) -> None:
        config = _config()
        config.attributes["connection"] = connection
        command.revision(config, message=message, autogenerate=True, rev_id=_next_revision(config))

    await _run(url, write)


async def _run(url: str, work: object) -> None:
    engine = create_engine(url)
    try:
        async with engine.execution_options(writes=True).begin() as connection:
            await connection.run_sync(work)  # type: ignore[arg-type]
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, revision: str) -> None:
    config = _config()
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise Misconfigured(
            f"the database is at revision {current}, which this release does not know; install the newer release again"
        )
    config.attributes["connection"] = connection
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Alembic's own deprecations are not the administrator's concern
        command.upgrade(config, revision)


def _next_revision(config: Config) -> str:
    count = len(list(ScriptDirectory.from_config(config).walk_revisions()))
    return f"{count + 1:04d}"


if __name__ == "__main__":
    import sys

    asyncio.run(autogenerate(sys.argv[1], sys.argv[2]))
