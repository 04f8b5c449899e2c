"""Versions from the order to their end: what the database, the disk and the audit trail then say."""

import json
from collections.abc import Collection
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.db import Database
from appliance.models import operations, queries, versions
from appliance.models.errors import (
    ImportNotAllowed,
    ImportRunning,
    ModelInUse,
    ModelNotFound,
    ModelShared,
    VersionImmutable,
    VersionNotFound,
    VersionNotReady,
)
from appliance.models.schemas import ImportProgress, NewImport
from appliance.models.serving import folder_of, version_for_service
from appliance.models.states import VersionKind, VersionState
from appliance.models.tables import BlobRow, ModelImportRow
from tenants.tables import AuditRow
from tests.models.builders import disk_usage, model_files, read_tree, sha256, with_header
from tests.models.library import Library
from tests.support.waiting import eventually_async


async def actions(database: Database) -> list[str]:
    async with database.read() as session:
        return list(await session.scalars(select(AuditRow.action).order_by(AuditRow.id)))


async def blobs(database: Database) -> set[str]:
    async with database.read() as session:
        return set(await session.scalars(select(BlobRow.sha256)))


async def test_a_folder_becomes_a_normal_version_that_a_service_can_use(library: Library, database: Database):
    await library.create()
    version = await library.import_(model_files() | {".gitattributes": b"x"})
    assert (version.state, version.current, version.error) == (VersionState.normal, True, None)
    assert version.total_bytes == sum(map(len, model_files().values()))
    assert version.metadata.left_out == [".gitattributes"]
    view = await library.for_service()
    assert (view.version_id, view.version_name, view.model_name) == (version.id, "main", "llama")
    assert (view.task_type, view.framework, view.quantised, view.encrypted) == (
        "text-generation",
        "transformers",
        False,
        False,
    )
    assert (view.formats, view.weight_bytes, view.architectures) == (["safetensors"], 8192, ["LlamaForCausalLM"])
    async with database.read() as session:
        folder = await folder_of(library.repository)(session, version.id)
    assert read_tree(folder) == model_files()
    assert (await actions(database))[-3:] == ["model.created", "model.version.import_ordered", "model.version.imported"]
    assert library.repository.store.names_in("incoming") == []


async def test_the_same_content_twice_takes_the_room_of_one(library: Library):
    await library.create("one")
    await library.create("two")
    files = model_files(weights=4096)
    await library.import_(files, model="one")
    used = disk_usage(library.repository.store.root)
    await library.import_(files | {"README.md": b"another card"}, model="two")
    assert disk_usage(library.repository.store.root) == used + len(b"another card")
    await library.delete("one")
    await library.settle()
    assert disk_usage(library.repository.store.root) == used + len(b"another card") - len(files["README.md"])
    assert read_tree(library.repository.store.tree((await library.for_service("two")).version_id))


async def test_a_refused_folder_fails_the_version_with_file_and_reason(library: Library, database: Database):
    await library.create()
    config = json.dumps({"auto_map": {"AutoModel": "m.M"}}).encode()
    version = await library.import_(model_files() | {"config.json": config})
    assert version.state is VersionState.failed
    assert version.error.code == "model-refused"
    assert [(file.path, "auto_map" in file.reason) for file in version.error.files] == [("config.json", True)]
    with pytest.raises(VersionNotReady, match="no version yet"):
        await library.for_service()
    with pytest.raises(VersionNotReady, match=r"failed: config\.json"):
        await library.for_service(version="main")
    assert await blobs(database) == set()
    assert disk_usage(library.repository.store.root) == 0
    again = await library.import_(model_files())
    assert again.state is VersionState.normal
    assert await library.versions() == [again.id]


async def test_a_replaced_branch_keeps_what_runs_and_drops_what_does_not(library: Library):
    used: dict[str, list[str]] = {}

    async def users(_: AsyncSession, version_ids: Collection[str]) -> dict[str, list[str]]:
        return {version_id: names for version_id, names in used.items() if version_id in version_ids}

    library.repository.add_users(users)
    await library.create()
    first = await library.import_(model_files(seed=b"one"))
    used[first.id] = ["service chat"]
    second = await library.import_(model_files(seed=b"two"))
    assert (await library.for_service()).version_id == second.id
    assert await library.versions() == [second.id, first.id]
    assert read_tree(library.repository.store.tree(first.id)) == model_files(seed=b"one")
    with pytest.raises(ModelInUse, match="version 'main' by service chat"):
        await library.delete()
    with pytest.raises(ModelInUse, match="service chat"):
        await library.delete_version(first.id)
    used.clear()
    status = await library.settle()
    assert status.importing == 0
    assert await library.versions() == [second.id]
    assert not library.repository.store.tree(first.id).exists()
    assert not library.repository.store.blob(sha256(model_files(seed=b"one")["model.safetensors"])).exists()


async def test_a_branch_stays_as_it_is_while_its_next_content_is_imported_or_fails(library: Library):
    await library.create()
    first = await library.import_(model_files())
    second = await library.order_import(model_files(seed=b"next") | {"x.py": b""})
    assert (await library.for_service()).version_id == first.id
    with pytest.raises(ImportRunning):
        await library.order_import(model_files(seed=b"third"))
    await library.settle()
    assert (await library.version(second)).state is VersionState.failed
    assert (await library.for_service()).version_id == first.id


async def test_a_tag_never_changes_and_outlives_its_branch(library: Library):
    await library.create()
    first = await library.import_(model_files(seed=b"one"))
    used = disk_usage(library.repository.store.root)
    async with library.work() as work:
        model = await operations.find_own_model(work, "llama")
        source = await queries.find_version(work.session, model, "main")
        tag = await versions.tag_version(work, model, source, "v1")
    await library.settle()
    assert disk_usage(library.repository.store.root) == used
    await library.import_(model_files(seed=b"two"))
    tagged = await library.version("v1")
    assert (tagged.id, tagged.kind, tagged.state) == (tag.id, VersionKind.tag, VersionState.normal)
    assert tagged.metadata == first.metadata
    assert read_tree(library.repository.store.tree(tag.id)) == model_files(seed=b"one")
    with pytest.raises(VersionImmutable):
        await library.order_import(model_files(), version="v1", kind=VersionKind.branch)
    with pytest.raises(VersionImmutable):
        await library.order_import(model_files(), version="main", kind=VersionKind.tag)


async def test_deleting_a_version_that_is_being_imported_stops_the_import(library: Library, database: Database):
    await library.create()
    version_id = await library.order_import(model_files())
    await library.keeper.reconcile()
    await library.delete_version(version_id)
    await library.settle()
    assert await library.versions() == []
    assert disk_usage(library.repository.store.root) == 0
    async with database.read() as session:
        assert list(await session.scalars(select(ModelImportRow))) == []


async def test_a_deleted_default_version_leaves_none(library: Library):
    await library.create()
    await library.import_(model_files())
    await library.delete_version("main")
    with pytest.raises(VersionNotReady, match="no version yet"):
        await library.for_service()


async def test_only_folders_below_the_allowed_ones_are_imported(library: Library, tmp_path: Path):
    await library.create()
    outside = tmp_path / "outside"
    outside.mkdir()
    (library.shelf / "link").symlink_to(outside)
    for directory in (str(outside), str(library.shelf / ".." / "outside"), str(library.shelf / "link"), "shelf", "/"):
        async with library.work() as work:
            model = await operations.find_own_model(work, "llama")
            with pytest.raises(ImportNotAllowed):
                await versions.import_directory(work, library.repository, model, NewImport(directory=directory))


async def test_a_link_out_of_the_allowed_folders_fails_the_import_and_one_within_is_followed(
    library: Library, tmp_path: Path
):
    await library.create()
    (tmp_path / "secret.json").write_bytes(b"{}")
    (library.shelf / "weights").write_bytes(model_files()["model.safetensors"])
    good = {path: content for path, content in model_files().items() if path != "model.safetensors"}
    version_id = await library.order_import(good)
    (folder,) = (path for path in library.shelf.iterdir() if path.is_dir())
    (folder / "model.safetensors").symlink_to("../weights")
    (folder / "x.json").symlink_to(tmp_path / "secret.json")
    await library.settle()
    version = await library.version(version_id)
    assert "leads out of the allowed folders" in version.error.detail
    (folder / "x.json").unlink()
    again = await library.import_(good)
    assert again.state is VersionState.normal


async def test_another_tenants_model_is_not_there_and_a_shared_one_is(library: Library):
    own = await library.create("own")
    await library.create("shared", shared=True)
    await library.import_(model_files(), model="shared")
    async with library.others_work() as work:
        for reference in ("own", own):
            with pytest.raises(ModelNotFound):
                await queries.find_model(work.scope, work.session, reference)
        shared = await queries.find_model(work.scope, work.session, "shared")
        assert shared.tenant_id is None
        with pytest.raises(ModelShared):
            await operations.find_own_model(work, "shared")
        with pytest.raises(VersionNotFound):
            await queries.find_version(work.session, shared, "v9")
        assert (await version_for_service(work.session, work.scope, "shared")).tenant_id is None


async def test_a_long_import_shows_its_progress_and_stops_when_its_version_is_deleted(library: Library):
    await library.create()
    size = 1 << 30
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    version_id = await library.order_import(model_files() | {"model.safetensors": with_header(header)})
    (folder,) = library.shelf.iterdir()
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.truncate(8 + len(header) + size)
    await library.keeper.reconcile()
    shown = await eventually_async(lambda: _progress(library, version_id))
    assert shown.phase == "copying"
    assert 0 < shown.bytes_done <= shown.bytes_total
    await library.delete_version(version_id)
    await library.settle()
    assert disk_usage(library.repository.store.root) == 0


async def _progress(library: Library, version_id: str) -> ImportProgress | None:
    progress = (await library.version(version_id)).progress
    return progress if progress is not None and progress.bytes_done > 1000 else None


async def test_a_use_that_only_the_database_knows_of_keeps_the_version_too(library: Library, database: Database):
    """What came into use between the look at the users and the delete: the foreign key has the last word."""
    await library.create()
    first = await library.import_(model_files(seed=b"one"))
    async with database.write() as session:
        await session.execute(text("CREATE TABLE uses (version_id VARCHAR(24) REFERENCES model_versions (id))"))
        await session.execute(text("INSERT INTO uses VALUES (:id)"), {"id": first.id})
    for refused in (library.delete, lambda: library.delete_version(first.id)):
        with pytest.raises(ModelInUse, match="just been taken into use"):
            await refused()
    second = await library.import_(model_files(seed=b"two"))
    assert await library.versions() == [second.id, first.id]
    assert read_tree(library.repository.store.tree(first.id)) == model_files(seed=b"one")
