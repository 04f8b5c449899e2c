"""Both applications on real sockets, and callers with keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import uvicorn

from appliance.api.context import Context, Port
from appliance.kernel.clock import Clock
from appliance.kernel.crypto import sha256_hex
from appliance.kernel.db import Database
from appliance.kernel.ids import new_id
from appliance.models.repository import ModelRepository
from tenants.activity import Sightings
from tenants.permissions import Permission
from tenants.tables import ApiKeyRow
from tests.support.apps import application
from tests.support.waiting import eventually_async


@dataclass
class FewParts:
    """What authentication and the routes of models use."""

    models: ModelRepository

    def __post_init__(self) -> None:
        self.sightings = Sightings()
        self.tenancy = self


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Caller:
    """Somebody with a key at one of the ports."""

    socket: Path
    client: httpx.AsyncClient
    secret: str

    async def ask(
        self, method: str, path: str, body: Any = None, *, status: int = 200, **headers: str
    ) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else None
        asked = None if content is not None else body
        answer = await self.client.request(method, f"/api/v1{path}", json=asked, content=content, headers=named)
        assert answer.status_code == status, answer.text
        return answer

    async def cut(self, path: str, offset: int, content: bytes, announced: int) -> None:
        """A PATCH whose connection breaks after `content`, of which `announced` bytes were promised."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        head = (
            f"PATCH /api/v1{path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {self.secret}\r\n"
            f"Upload-Offset: {offset}\r\nContent-Length: {announced}\r\n\r\n"
        )
        writer.write(head.encode() + content)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        del reader

    async def offset(self, path: str) -> int:
        return int((await self.ask("HEAD", path)).headers["Upload-Offset"])


@asynccontextmanager
async def serving(context: Context, folder: Path) -> AsyncIterator[Path]:
    """The application of the context's port on a unix socket, by the server that production uses."""
    path = folder / f"{context.port}.sock"
    config = uvicorn.Config(application(context), uds=str(path), log_config=None, lifespan="off")
    server = _Server(config)
    task = asyncio.create_task(server.serve())

    async def started() -> bool:
        return server.started

    await eventually_async(started)
    yield path
    server.should_exit = True
    await task


@asynccontextmanager
async def caller(socket: Path, secret: str) -> AsyncIterator[Caller]:
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    headers = {"Authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://appliance", headers=headers) as client:
        yield Caller(socket, client, secret)


def context_for(port: Port, database: Database, clock: Clock, repository: ModelRepository) -> Context:
    nothing = cast("Any", None)
    return Context(port, nothing, database, clock, nothing, cast("Any", FewParts(repository)))


async def add_key(database: Database, clock: Clock, tenant_id: str | None, *scopes: Permission) -> str:
    secret = new_id("key")
    row = ApiKeyRow(
        id=new_id("key"),
        tenant_id=tenant_id,
        name=secret,
        prefix="ak_test",
        secret_sha256=sha256_hex(secret),
        scopes=[scope.value for scope in scopes],
        services=[],
        created_by="test",
        created_at=clock.now(),
    )
    async with database.write() as session:
        session.add(row)
    return secret


def detail(answer: httpx.Response) -> tuple[str, str]:
    problem = json.loads(answer.content)
    return problem["code"], problem["detail"]
