"""The database: PostgreSQL through asyncpg, or SQLite through aiosqlite. Transactions begin and commit only here.

`read()` is a short read-only unit, `write()` one transaction that commits when its block ends. On SQLite writes
queue in the process (one writer) and begin IMMEDIATE, so that a busy database is met before any work was done.
No session is held across Docker, NVML, HTTP or a stream.

After a commit the names in `session.info["wake"]` (see `wake`) are handed to the activations.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from copy import copy
from typing import Any

from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from appliance.kernel.crashpoints import reached
from appliance.kernel.errors import BadInput, DatabaseUnavailable

BUSY_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 5.0
POOL = {"sqlite": 8, "postgresql": 15}
"""Connections at most."""
KEPT_FREE = 4
"""Of them, for the control plane's own loops, whatever requests come in."""
CALLERS_IN_LINE = 2
"""Requests that stand in SQLite's line of writers, so that a loop's turn is soon."""
LOCK_TIMEOUT_S = 10.0
"""How long a statement waits for what another transaction has locked: as long as SQLite's writers wait altogether."""
STATEMENT_TIMEOUT_S = 30.0
IDLE_TIMEOUT_S = 120.0
"""After which PostgreSQL ends a transaction that asks nothing: none of ours is so long without a defect."""
_DATA_EXCEPTION, _TRANSACTION_ROLLBACK, _NOT_IN_STATE = "22", "40", "55"
"""Classes of SQLSTATE (PostgreSQL's manual, appendix A)."""
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}",
)


def create_engine(url: str) -> AsyncEngine:
    """An engine whose transactions behave the same on both databases; nothing is connected yet.

    Its errors hide the parameters of statements: they are logged, and hold tenants' data and hashes of secrets.
    """
    if make_url(url).get_backend_name() == "sqlite":
        engine = create_async_engine(
            url,
            hide_parameters=True,
            pool_size=POOL["sqlite"],
            max_overflow=0,
            pool_timeout=BUSY_TIMEOUT_S,
            connect_args={"async_creator_fn": _connect_sqlite},
        )
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine
    return create_async_engine(
        url,
        hide_parameters=True,
        pool_size=10,
        max_overflow=POOL["postgresql"] - 10,
        pool_timeout=BUSY_TIMEOUT_S,
        pool_pre_ping=True,
        connect_args={
            "async_creator_fn": _connect_postgres,
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": STATEMENT_TIMEOUT_S,
            "server_settings": {
                "application_name": "appliance",
                "lock_timeout": str(int(LOCK_TIMEOUT_S * 1000)),  # milliseconds
                "idle_in_transaction_session_timeout": str(int(IDLE_TIMEOUT_S * 1000)),
            },
        },
    )


async def _connect_postgres(*arguments: Any, **options: Any) -> Any:
    """Connect; what keeps asyncpg from it would pass SQLAlchemy untranslated, as plain OSErrors for one."""
    import asyncpg  # type: ignore[import-untyped]  # noqa: PLC0415 - on SQLite nobody needs it

    try:
        return await asyncpg.connect(*arguments, **options)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        cause = str(error) or type(error).__name__
        raise DatabaseUnavailable("the database does not answer; try again", cause=cause) from error


async def _connect_sqlite(*arguments: Any, **options: Any) -> Any:
    """Open and prepare a connection, wholly or not at all.

    Each has a thread of its own, which a cancellation half-way would leave behind: it waits until the connection is
    open, and closes it.
    """
    opening = asyncio.ensure_future(_open_sqlite(*arguments, **options))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait([opening])
        if opening.exception() is None:
            await opening.result().close()
        raise


async def _open_sqlite(*arguments: Any, **options: Any) -> Any:
    import aiosqlite  # noqa: PLC0415 - on PostgreSQL nobody needs it

    connecting = aiosqlite.connect(*arguments, isolation_level=None, **options)  # BEGIN is ours, see _begin_sqlite
    connecting._thread.daemon = True  # noqa: SLF001 - as SQLAlchemy does: a process that ends does not wait for it
    connection = await connecting
    try:
        for pragma in _PRAGMAS:
            await connection.execute(pragma)
    except BaseException:
        await connection.close()
        raise
    return connection


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class Database:
    def __init__(self, url: str, *, activate: Callable[[Iterable[str]], None] = lambda _: None) -> None:
        self.engine = create_engine(url)
        self.activate = activate
        is_sqlite = self.engine.dialect.name == "sqlite"
        self._writer = asyncio.Lock() if is_sqlite else None  # PostgreSQL has as many as come
        self._places: asyncio.Semaphore | None = None
        self._writers_places: asyncio.Semaphore | None = None
        self._readers = async_sessionmaker(self.engine, expire_on_commit=False, autoflush=False)
        self._writers = async_sessionmaker(
            self.engine.execution_options(writes=True), expire_on_commit=False, autoflush=False
        )

    def for_callers(self) -> Database:
        """The same for requests, of which so many have a transaction at a time that the control plane's own loops find
        a connection and, on SQLite, their turn to write. The others wait, and are told to come again after a while.
        """
        shared = copy(self)
        shared._places = asyncio.Semaphore(POOL[self.engine.dialect.name] - KEPT_FREE)  # noqa: SLF001 - it is ours
        # SQLite's one writer has a connection whoever reads: else it would wait for one while all others wait for it.
        shared._writers_places = shared._places if self._writer is None else asyncio.Semaphore(CALLERS_IN_LINE)  # noqa: SLF001
        return shared

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        async with _held(self._places):
            with _translated():
                async with self._readers() as session, session.begin():
                    yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        async with _held(self._writers_places), _held(self._writer):
            with _translated():
                async with self._writers() as session:
                    async with session.begin():
                        yield session
                        await session.flush()
                        reached("commit.before")
                    reached("commit.after")
        self.activate(session.info.get("wake", ()))

    async def ping(self) -> None:
        """Raise `DatabaseUnavailable` unless the database answers."""
        async with self.read() as session:
            await session.execute(text("SELECT 1"))

    async def close(self) -> None:
        await self.engine.dispose()


@asynccontextmanager
async def _held(waited_for: asyncio.Lock | asyncio.Semaphore | None) -> AsyncIterator[None]:
    if waited_for is None:
        yield
        return
    await _acquired(waited_for)
    try:
        yield
    finally:
        waited_for.release()


async def _acquired(waited_for: asyncio.Lock | asyncio.Semaphore) -> None:
    try:
        # Not wait_for: before Python 3.12 it may swallow a cancellation, and its caller would never end.
        async with asyncio.timeout(2 * BUSY_TIMEOUT_S):
            await waited_for.acquire()
    except TimeoutError as error:
        raise DatabaseUnavailable("the database is busy with other changes; try again") from error


def wake(session: AsyncSession, *reconcilers: str) -> None:
    """Activate these reconcilers once the session's transaction is committed."""
    session.info.setdefault("wake", set()).update(reconcilers)


class _translated:  # noqa: N801 - used like a function
    """Turn a lost or busy database into `DatabaseUnavailable`, and a value that it cannot hold (a NUL, a number that
    is too large) into `BadInput`; constraint violations pass for their callers.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> None:
        match error:
            case IntegrityError():
                return
            case OperationalError() | InterfaceError() | PoolTimeout() | ConnectionError() | TimeoutError():
                # TimeoutError: asyncpg's own, of a statement, which SQLAlchemy passes on as it is.
                raise DatabaseUnavailable("the database does not answer; try again", cause=str(error)) from error
            case DBAPIError() if error.connection_invalidated:
                raise DatabaseUnavailable("the database went away; try again", cause=str(error)) from error
            case DBAPIError() if _sqlstate_class(error) == _TRANSACTION_ROLLBACK:
                raise DatabaseUnavailable("two changes met; try again", cause=str(error)) from error
            case DBAPIError() if _sqlstate_class(error) == _NOT_IN_STATE:  # a lock that was not to be had in time
                raise DatabaseUnavailable(
                    "the database is busy with other changes; try again", cause=str(error)
                ) from error
            case DBAPIError() if _sqlstate_class(error) == _DATA_EXCEPTION:
                raise BadInput("a value cannot be stored: a NUL character, or a number that is too large") from error
            case OverflowError():  # SQLite's driver, of a number beyond 64 bits
                raise BadInput("a number is too large to be stored") from error


def _sqlstate_class(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")[:2]
