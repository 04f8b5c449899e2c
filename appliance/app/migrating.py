"""Bringing a database to this release's schema; run at each start, and by `appliance migrate`.

A database that is there already costs one query: Alembic is only loaded when something has to be done.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from appliance.kernel.db import create_engine
from appliance.kernel.errors import Misconfigured
from appliance.kernel.resources import resource

if TYPE_CHECKING:
    from alembic.config import Config

_REVISION = re.compile(r"(\d{4})_\w+\.py")
"""Revisions are numbered in their order, and their files begin with the number."""


def revisions() -> list[str]:
    """Every revision of this release, oldest first."""
    files = (resource("migrations") / "versions").iterdir()
    return sorted(match[1] for file in files if (match := _REVISION.fullmatch(file.name)))


def config() -> Config:
    """Alembic's configuration; the caller adds the connection."""
    from alembic.config import Config  # noqa: PLC0415 - see the module's docstring

    made = Config()
    made.set_main_option("script_location", str(resource("migrations")))
    made.set_main_option("path_separator", "os")
    return made


async def upgrade(url: str) -> None:
    """Run what is missing; refuses a database that a newer release has migrated."""
    engine = create_engine(url)
    try:
        async with engine.execution_options(writes=True).begin() as connection:
            await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> None:
    current, known = _current(connection), revisions()
    if current is not None and current not in known:
        raise Misconfigured(
            f"the database is at revision {current}, which this release does not know; install the newer release again"
        )
    if current == known[-1]:
        return
    from alembic import command  # noqa: PLC0415 - see the module's docstring

    alembic = config()
    alembic.attributes["connection"] = connection
    command.upgrade(alembic, "head")


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
