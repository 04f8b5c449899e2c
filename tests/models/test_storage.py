"""What a tenant's models count against its storage: from the moment a size is known until the rows are gone."""

from __future__ import annotations

import asyncio
import io
import zipfile

import pytest
from sqlalchemy import update

from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.models import operations, queries, storage, uploads, versions
from appliance.models.repository import ModelRepository
from appliance.models.schemas import Version
from appliance.models.states import UploadKind, VersionState
from tenants.quotas import QuotaExceeded, Resource
from tenants.tables import QuotaRow
from tests.models.builders import model_files
from tests.models.library import Library

AT_ONCE, ROOM = 100, 3


async def used(library: Library) -> int:
    async with library.work() as work:
        return (await work.session.get_one(QuotaRow, (library.tenant_id, Resource.storage_bytes.value))).used


async def limit(database: Database, library: Library, amount: int) -> None:
    mine = update(QuotaRow).where(
        QuotaRow.scope == library.tenant_id, QuotaRow.resource == Resource.storage_bytes.value
    )
    async with database.write() as session:
        await session.execute(mine.values(quota_limit=amount))


def size(files: dict[str, bytes]) -> int:
    return storage.size_of(map(len, files.values()))


async def test_an_import_counts_when_it_is_whole_and_until_it_is_deleted(library: Library) -> None:
    await library.create()
    first, second = model_files(), model_files(seed=b"other", weights=128)
    await library.import_(first)
    assert await used(library) == size(first)
    await library.import_(second)  # takes the name; the first is used by nobody and goes
    assert await used(library) == size(second)
    async with library.work() as work:
        model = await operations.find_own_model(work, "llama")
        await versions.tag_version(work, model, await queries.find_version(work.session, model, "main"), "v1")
    assert await used(library) == 2 * size(second)
    await library.settle()
    assert await used(library) == 2 * size(second)
    await library.delete_version("main")
    assert await used(library) == size(second)
    await library.delete()
    await library.settle()
    assert await used(library) == 0


async def test_an_upload_counts_what_it_announces_and_gives_it_back_where_it_fails(
    library: Library, clock: ManualClock
) -> None:
    await library.create()
    files = model_files()
    aborted = await library.open_upload(files)
    assert await used(library) == size(files)
    async with library.upload(aborted) as (work, model, upload):
        await uploads.abort_upload(work, model, upload)
    assert await used(library) == 0
    await library.open_upload(files)
    assert await used(library) == size(files)
    clock.advance(uploads.LIFETIME.total_seconds() + 1)
    await library.settle()
    assert await used(library) == 0
    refused = await library.import_({**files, "config.json": b"{"})
    assert refused.state is VersionState.failed
    assert await used(library) == 0


async def test_shared_models_count_for_nobody(library: Library) -> None:
    await library.create("shared", shared=True)
    await library.import_(model_files(), model="shared")
    assert await used(library) == 0


async def test_what_has_no_room_is_refused_or_fails_with_the_reason(database: Database, library: Library) -> None:
    await library.create()
    files = model_files()
    await limit(database, library, size(files) - 1)
    with pytest.raises(QuotaExceeded, match="storage_bytes"):
        await library.open_upload(files)
    failed = await library.import_(files)
    assert failed.state is VersionState.failed
    assert failed.error is not None
    assert failed.error.code == QuotaExceeded.code
    assert await used(library) == 0


async def test_files_without_a_byte_count_too(library: Library) -> None:
    await library.create()
    plain = model_files()
    empty = {f"notes/{number}.txt": b"" for number in range(200)}
    await library.open_upload(plain | empty)
    assert await used(library) == size(plain) + 200 * storage.LEAST


async def archived(library: Library, files: dict[str, bytes]) -> Version:
    """The version that came of an archive of the files."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    content = packed.getvalue()
    upload_id = await library.open_upload({"m.zip": content}, content=UploadKind.archive)
    await library.send(upload_id, "m.zip", content)
    version_id = await library.finish(upload_id)
    await library.settle()
    return await library.version(version_id)


async def test_an_archive_and_its_members_have_room_before_any_is_written(
    database: Database, library: Library, repository: ModelRepository
) -> None:
    await library.create()
    files = model_files() | {"notes.txt": b"a" * (1 << 20)}
    await limit(database, library, size(files))  # enough for the members, and not for the archive beside them
    failed = await archived(library, files)
    assert failed.state is VersionState.failed
    assert failed.error is not None
    assert failed.error.code == QuotaExceeded.code
    assert await used(library) == 0
    assert list(repository.store.stored_blobs()) == []
    assert [repository.store.names_in(folder) for folder in ("versions", "uploads", "incoming")] == [[], [], []]
    await limit(database, library, size(files) + (1 << 20))
    whole = await archived(library, files)
    assert whole.state is VersionState.normal
    assert await used(library) == size(files)


@pytest.mark.alone  # a hundred writers wait for one another, and are refused after a bounded time
async def test_of_a_hundred_uploads_at_once_as_many_are_opened_as_there_is_room_for(
    database: Database, library: Library
) -> None:
    files = model_files()
    await limit(database, library, ROOM * size(files) + 1)
    for number in range(AT_ONCE):
        await library.create(f"m{number}")

    async def attempt(number: int) -> bool:
        try:
            await library.open_upload(files, model=f"m{number}")
        except QuotaExceeded:
            return False
        return True

    assert sum(await asyncio.gather(*map(attempt, range(AT_ONCE)))) == ROOM
    assert await used(library) == ROOM * size(files)
    await asyncio.gather(*(library.delete(f"m{number}") for number in range(AT_ONCE)))
    assert await used(library) == 0
