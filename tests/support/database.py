"""The `database` fixture: SQLite and PostgreSQL, each built by the migrations, one of its own for each test.

The migrations run once a session into a template; a test gets a copy.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from appliance.app.migrating import upgrade
from appliance.kernel.db import Database
from tests.support import postgres


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.sqlite"
    asyncio.run(upgrade(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    with postgres.database(postgres_server) as url:
        asyncio.run(upgrade(url))
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a migrated, empty database."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            copy = tmp_path / "test.sqlite"
            shutil.copyfile(request.getfixturevalue("sqlite_template"), copy)
            yield f"sqlite+aiosqlite:///{copy}"
        else:
            server = request.getfixturevalue("postgres_server")
            template = request.getfixturevalue("postgres_template")
            yield stack.enter_context(postgres.database(server, template=template))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()
