"""The repository in use: each method is one transaction in somebody's name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.kernel.ids import TenantId
from appliance.kernel.pagination import PageRequest
from appliance.models import operations, queries, uploads, versions
from appliance.models.maintenance import ModelStoreKeeper, ModelStoreStatus
from appliance.models.receiving import receive
from appliance.models.repository import ModelRepository
from appliance.models.schemas import NewImport, NewModel, NewUpload, UploadFile, Version, VersionView
from appliance.models.serving import version_for_service
from appliance.models.states import UploadKind, UploadState, VersionKind
from appliance.models.views import version_view
from tenants.actors import Actor, ActorKind
from tenants.permissions import PERMISSIONS, Role
from tenants.work import Work
from tests.models.builders import sha256, write_files


def actor_of(role: Role, tenant_id: TenantId | None) -> Actor:
    return Actor(ActorKind.user, "usr_someone", "someone", tenant_id, PERMISSIONS[role], "req_1")


Begin = Callable[[Role, TenantId | None], AbstractAsyncContextManager[Work]]


@dataclass
class Library:
    begin: Begin
    repository: ModelRepository
    keeper: ModelStoreKeeper
    shelf: Path
    tenant_id: TenantId
    other_tenant_id: TenantId
    role: Role = Role.platform_admin

    def work(self) -> AbstractAsyncContextManager[Work]:
        return self.begin(self.role, self.tenant_id)

    def others_work(self) -> AbstractAsyncContextManager[Work]:
        return self.begin(Role.developer, self.other_tenant_id)

    async def create(self, name: str = "llama", *, shared: bool = False) -> str:
        async with self.work() as work:
            return (await operations.create_model(work, NewModel(name=name, shared=shared))).id

    async def order_import(
        self,
        files: Mapping[str, bytes],
        *,
        model: str = "llama",
        version: str = "main",
        kind: VersionKind = VersionKind.branch,
    ) -> str:
        """Put the files on the shelf and order their import; the version's id."""
        folder = write_files(self.shelf / f"{model}-{version}-{sha256(repr(files).encode())[:8]}", files)
        async with self.work() as work:
            row = await operations.find_own_model(work, model)
            new = NewImport(directory=str(folder), version=version, kind=kind)
            return (await versions.import_directory(work, self.repository, row, new))[0].id

    async def import_(self, files: Mapping[str, bytes], *, model: str = "llama", version: str = "main") -> Version:
        """Import to the end, whichever it is."""
        version_id = await self.order_import(files, model=model, version=version)
        await self.settle()
        return await self.version(version_id, model=model)

    async def settle(self) -> ModelStoreStatus:
        """Rounds of the keeper until nothing is under way and everything is collected."""
        await self.keeper.reconcile()
        await self.keeper.join()
        return await self.keeper.reconcile()

    async def version(self, reference: str, *, model: str = "llama") -> Version:
        async with self.work() as work:
            row = await queries.find_model(work.scope, work.session, model)
            found = await queries.find_version(work.session, row, reference)
            running = await queries.imports_of(work.session, [found.id])
            return version_view(found, running.get(found.id))

    async def versions(self, model: str = "llama") -> list[str]:
        async with self.work() as work:
            row = await queries.find_model(work.scope, work.session, model)
            return [found.id for found in await queries.list_versions(work.session, row.id, PageRequest())]

    async def delete_version(self, reference: str, *, model: str = "llama") -> None:
        async with self.work() as work:
            row = await operations.find_own_model(work, model)
            found = await queries.find_version(work.session, row, reference)
            await versions.delete_version(work, self.repository, row, found)

    async def delete(self, model: str = "llama") -> None:
        async with self.work() as work:
            await operations.delete_model(work, self.repository, await operations.find_own_model(work, model))

    async def for_service(self, model: str = "llama", version: str | None = None) -> VersionView:
        async with self.work() as work:
            return await version_for_service(work.session, work.scope, model, version)

    async def open_upload(
        self,
        files: Mapping[str, bytes],
        *,
        content: UploadKind = UploadKind.files,
        model: str = "llama",
        version: str = "main",
    ) -> str:
        announced = [UploadFile(path, len(data), sha256(data)) for path, data in files.items()]
        async with self.work() as work:
            row = await operations.find_own_model(work, model)
            return (
                await uploads.open_upload(
                    work, self.repository, row, NewUpload(announced, version=version, content=content)
                )
            ).id

    async def open_uploads(self, model: str = "llama") -> list[str]:
        async with self.work() as work:
            row = await queries.find_model(work.scope, work.session, model)
            found = await queries.list_uploads(work.session, row.id, PageRequest())
            return [upload.id for upload in found if upload.state == UploadState.open]

    async def send(self, upload_id: str, path: str, content: bytes, *, model: str = "llama") -> None:
        """Send what is missing of the file, in two requests."""
        async with self.work() as work:
            row = await operations.find_own_model(work, model)
            upload = await queries.find_upload(work.session, row, upload_id)
            file = await queries.find_upload_file(work.session, upload, path)
        part, digests = uploads.part_of(self.repository, file), self.repository.digests
        for end in (len(content) // 2, len(content)):
            if part.received < end or (end == file.size and not part.is_complete):
                rest = _once(content[part.received : end])
                await receive(part, file.sha256, rest, offset=part.received, digests=digests)

    async def finish(self, upload_id: str, *, model: str = "llama") -> str:
        async with self.work() as work:
            row = await operations.find_own_model(work, model)
            upload = await queries.find_upload(work.session, row, upload_id)
            return (await uploads.finish_upload(work, self.repository, row, upload))[0].id

    @asynccontextmanager
    async def upload(self, upload_id: str) -> AsyncIterator[tuple[Work, object, object]]:
        async with self.work() as work:
            row = await operations.find_own_model(work, "llama")
            yield work, row, await queries.find_upload(work.session, row, upload_id)


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
