"""The whole database as plain rows, read in one transaction: sqlite3 or asyncpg, no mapping, nothing shared."""

import asyncio
import json
import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

Row = Mapping[str, Any]
Tables = Mapping[str, Sequence[Row]]

SQLITE: Final = "sqlite+aiosqlite:///"
POSTGRES: Final = "postgresql+asyncpg://"


def read_tables(url: str) -> Tables:
    """Every table, by name. Raises `ValueError` for a URL of another kind, the driver's errors otherwise."""
    if url.startswith(SQLITE):
        return _read_sqlite(Path(url.removeprefix(SQLITE)))
    if url.startswith((POSTGRES, "postgresql://")):
        with ThreadPoolExecutor(1) as thread:  # the caller may have a running loop
            return thread.submit(asyncio.run, _read_postgres(url.replace(POSTGRES, "postgresql://", 1))).result()
    raise ValueError(f"a database URL begins with {SQLITE} or {POSTGRES}, not {url.partition(':')[0]}:")


def _read_sqlite(path: Path) -> Tables:
    if not path.is_file():
        raise FileNotFoundError(f"there is no database {path}")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        return {
            name: [dict(row) for row in connection.execute(f'SELECT * FROM "{name}"')] for (name,) in names.fetchall()
        }


async def _read_postgres(dsn: str) -> Tables:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
            return {name: [dict(row) for row in await connection.fetch(f'SELECT * FROM "{name}"')] for (name,) in names}
    finally:
        await connection.close()


def instant(value: str | datetime | None) -> datetime | None:
    """A column's instant in UTC; SQLite stores text without a zone, which is UTC by convention."""
    if value is None:
        return None
    parsed = datetime.fromisoformat(value) if isinstance(value, str) else value
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


def document(value: Any) -> Any:
    """A JSON column's value; both drivers give text."""
    return json.loads(value) if isinstance(value, str | bytes) else value
