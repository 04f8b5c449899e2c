"""A real PostgreSQL for tests, and databases of their own on it.

`APPLIANCE_TEST_POSTGRES_URL` names a server with a superuser's rights. Where it is unset but PostgreSQL's
programs are on the machine, the run starts a private server on a unix socket, which ends with it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]
import pytest

from tests.support.requirements import Requirement, unavailable
from tests.support.waiting import eventually

VARIABLE = "APPLIANCE_TEST_POSTGRES_URL"
DRIVER: Final = "postgresql+asyncpg"
_DEBIAN: Final = Path("/usr/lib/postgresql")
_FAST: Final = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")
"""Test data need not survive a power cut."""

_numbers = count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """SQLAlchemy's URL of a server's maintenance database, with a superuser's rights. Skips without one."""
    if url := os.environ.get(VARIABLE, ""):
        if not url.startswith(f"{DRIVER}://"):
            raise pytest.UsageError(f"{VARIABLE} must begin with {DRIVER}://, not {url!r}")
        yield url
        return
    if _programs() is None:
        unavailable(Requirement.POSTGRES, f"{VARIABLE} is not set and PostgreSQL's programs are not installed")
    with own_server() as server:
        yield server.url


@pytest.fixture
def postgres_of_its_own() -> Iterator[PostgresServer]:
    """A server that the test may stop, kill and start again."""
    if _programs() is None:
        unavailable(Requirement.POSTGRES, "PostgreSQL's programs are not installed")
    with own_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """SQLAlchemy's URL of an empty database that belongs to one test."""
    with database(postgres_server) as url:
        yield url


@contextmanager
def database(server: str, *, template: str | None = None) -> Iterator[str]:
    """A database of its own: empty, or a copy of `template` (a URL given by this function, with no session in
    it). It is dropped at the end, and the sessions that are still in it are cut."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    source = "template0" if template is None else urlsplit(template).path.removeprefix("/")
    execute(server, f'CREATE DATABASE "{name}" TEMPLATE "{source}"')
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        execute(server, f'DROP DATABASE "{name}" WITH (FORCE)')


def execute(url: str, statement: str) -> None:
    """Runs one statement outside a transaction; blocks, also within a coroutine."""

    async def run() -> None:
        connection = await asyncpg.connect(driver_dsn(url))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    _run(run())


def driver_dsn(url: str) -> str:
    """What asyncpg itself understands of SQLAlchemy's URL."""
    return url.replace(f"{DRIVER}://", "postgresql://", 1)


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    # In a thread, which has no loop yet: fixtures and helpers are called with and without a running loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, coroutine).result()


def _programs() -> Path | None:
    """The folder of `initdb` and `postgres`; Debian keeps the servers' programs off PATH."""
    folders = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    versions = sorted(_DEBIAN.glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    for folder in (*versions, *folders):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


class PostgresServer:
    """A server of its own on a unix socket, which may be stopped, killed, frozen and started again."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        # PostgreSQL refuses to run as root.
        self._as: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody", "nogroup")
            self._as = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"{DRIVER}://appliance@/postgres?host={folder}"

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        assert self._process is not None
        return self._process.pid

    def initialise(self) -> None:
        options = ["--username=appliance", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        command = [str(self._programs / "initdb"), f"--pgdata={self._folder}/data", *options]
        subprocess.run(
            ["setpriv", *self._as, *command] if self._as else command, cwd=self._folder, check=True, capture_output=True
        )

    def start(self) -> None:
        """Return when it answers."""
        settings = ["listen_addresses=", f"unix_socket_directories={self._folder}", *_FAST]
        options = [part for setting in settings for part in ("-c", setting)]
        # The kernel stops the server when a killed test run cannot. setpriv sets that after the change of user,
        # which would undo it.
        guard = ["setpriv", *self._as, "--pdeathsig=INT"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*guard, str(self._programs / "postgres"), "-D", f"{self._folder}/data", *options],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually(self._answers, 60, message="PostgreSQL answers")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: a fast shutdown, sessions are cut; SIGQUIT: an immediate one, as after a crash."""
        assert self._process is not None
        self._process.send_signal(how)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"PostgreSQL ended at once:\n{self._log.read_text()}", pytrace=False)
        try:
            execute(self.url, "SELECT 1")
        except (OSError, asyncpg.CannotConnectNowError):
            return False
        return True

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"


@contextmanager
def own_server() -> Iterator[PostgresServer]:
    """A running server that nobody else uses. `FileNotFoundError` where PostgreSQL is not installed."""
    programs = _programs()
    if programs is None:
        raise FileNotFoundError("PostgreSQL's programs are not installed")
    # Not pytest's folder: a unix socket's path has at most 107 bytes, and another user has to reach it.
    folder = Path(tempfile.mkdtemp(prefix="appliance-postgres-", dir="/tmp"))
    try:
        server = PostgresServer(programs, folder)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
