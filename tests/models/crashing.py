"""A control plane's work on models, run to its end: `python -m tests.models.crashing HOME`.

Each step looks first whether it was done, so that the same command after a crash goes on. At the end version
`main` holds TWO, tag `v1` holds ONE, and what was uploaded is deleted again.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from appliance.kernel import leases
from appliance.kernel.clock import SystemClock
from appliance.kernel.db import Database
from appliance.kernel.errors import NotFound
from appliance.kernel.ids import TenantId
from appliance.kernel.leases import Guarded
from appliance.kernel.tables import Base
from appliance.models import operations, queries, versions
from appliance.models.maintenance import ModelStoreKeeper
from appliance.models.repository import ModelRepository
from appliance.models.schemas import Version
from tenants.permissions import Role
from tenants.quotas import Resource
from tenants.tables import QuotaRow, TenantRow
from tenants.work import Work
from tests.models.builders import model_files
from tests.models.library import Library, actor_of

TENANT = TenantId("ten_00000000000000000000")
KEPT = ("config.json", "model.safetensors")
ONE = {path: content for path, content in model_files(seed=b"one").items() if path in KEPT}
TWO = {path: content for path, content in model_files(seed=b"two").items() if path in KEPT}
SENT = {path: content for path, content in model_files(seed=b"sent").items() if path in KEPT}


async def main(home: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{home}/db.sqlite")
    clock = SystemClock()
    await _prepare(database, clock)
    async with database.write() as session:
        guarded = Guarded(database, await leases.take(session, "control", "test", clock))
    repository = ModelRepository(home / "models", upload_bytes=1 << 30, import_roots=[home / "shelf"])
    keeper = ModelStoreKeeper(guarded, repository, clock)

    @asynccontextmanager
    async def work(role: Role, tenant_id: TenantId | None) -> AsyncIterator[Work]:
        async with database.write() as session:
            yield Work(session, actor_of(role, tenant_id), clock)

    await _do_everything(Library(work, repository, keeper, home / "shelf", TENANT, TENANT))
    await keeper.close()
    await database.close()


async def _prepare(database: Database, clock: SystemClock) -> None:
    async with database.engine.execution_options(writes=True).begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with database.write() as session:
        if await session.get(TenantRow, TENANT) is None:
            session.add(TenantRow(id=TENANT, name="acme", display_name="Acme", state="active", created_at=clock.now()))
            session.add(QuotaRow(scope=TENANT, resource=Resource.storage_bytes.value, used=0, quota_limit=1 << 40))


async def _do_everything(library: Library) -> None:
    try:
        async with library.work() as work:
            await operations.find_own_model(work, "llama")
    except NotFound:
        await library.create()
    await library.settle()
    if await _found(library, "main") is None:
        await library.import_(ONE)
    if await _found(library, "v1") is None:
        async with library.work() as work:
            model = await operations.find_own_model(work, "llama")
            await versions.tag_version(work, model, await queries.find_version(work.session, model, "main"), "v1")
        await library.settle()
    await library.import_(TWO)
    await _upload(library)
    await library.delete_version("up")
    await library.settle()


async def _upload(library: Library) -> None:
    found = await _found(library, "up")
    if found is None:
        await library.open_upload(SENT, version="up")
    for upload_id in await library.open_uploads():
        for path, content in SENT.items():
            await library.send(upload_id, path, content)
        await library.finish(upload_id)
    await library.settle()


async def _found(library: Library, name: str) -> Version | None:
    try:
        return await library.version(name)
    except NotFound:
        return None


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
