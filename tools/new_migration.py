"""Write a new revision with what the tables have and the migrations lack: `python tools/new_migration.py MESSAGE`."""

from __future__ import annotations

import asyncio
import sys
import tempfile

from alembic import command
from sqlalchemy import Connection

from appliance.app.migrating import config, revisions, upgrade
from appliance.kernel.db import create_engine


async def main(message: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{folder}/empty.sqlite"
        if revisions():
            await upgrade(url)
        engine = create_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(_generate, message)
        await engine.dispose()


def _generate(connection: Connection, message: str) -> None:
    alembic = config()
    alembic.attributes["connection"] = connection
    known = revisions()
    number = f"{int(known[-1]) + 1 if known else 1:04d}"
    command.revision(alembic, message=message, autogenerate=True, rev_id=number)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
