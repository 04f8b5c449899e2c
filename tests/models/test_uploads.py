"""Uploads from the announcement to their end."""

import io
import tarfile
from datetime import timedelta

import pytest

from appliance.kernel.clock import ManualClock
from appliance.kernel.errors import BadInput
from appliance.models import uploads
from appliance.models.errors import ModelRefused, UploadClosed, UploadIncomplete, UploadNotFound, UploadTooLarge
from appliance.models.states import UploadKind, VersionState
from tests.models.builders import disk_usage, model_files, read_tree
from tests.models.library import Library


async def test_announced_files_arrive_in_any_order_and_become_a_version(library: Library):
    await library.create()
    files = model_files() | {"LICENSE": b""}
    upload_id = await library.open_upload(files)
    for path in reversed([path for path, content in files.items() if content]):
        await library.send(upload_id, path, files[path])
    version_id = await library.finish(upload_id)
    with pytest.raises(UploadClosed):
        await library.finish(upload_id)
    await library.settle()
    version = await library.version(version_id)
    assert (version.state, version.current) == (VersionState.normal, True)
    assert read_tree(library.repository.store.tree(version_id)) == files
    assert library.repository.store.names_in("uploads") == []
    with pytest.raises(UploadNotFound):
        async with library.upload(upload_id):
            pass


async def test_what_is_missing_is_named_and_may_follow(library: Library):
    await library.create()
    files = model_files()
    upload_id = await library.open_upload(files)
    await library.send(upload_id, "config.json", files["config.json"])
    with pytest.raises(UploadIncomplete, match=r"not complete: generation_config.json, .*model\.safetensors"):
        await library.finish(upload_id)


async def test_bad_names_sizes_and_archives_are_refused_before_a_byte_is_sent(library: Library):
    await library.create()
    library.repository.upload_bytes = 100_000
    for files, content, error in (
        ({"model.safetensors": b"x", "../a.json": b"x"}, UploadKind.files, ModelRefused),
        ({"model.bin": b"x"}, UploadKind.files, ModelRefused),
        ({"model.safetensors": bytes(100_001)}, UploadKind.files, UploadTooLarge),
        ({"a.tar": b"x", "b.tar": b"x"}, UploadKind.archive, BadInput),
        ({"a.rar": b"x"}, UploadKind.archive, BadInput),
        ({"a/b.tar": b"x"}, UploadKind.archive, BadInput),
    ):
        with pytest.raises(error):
            await library.open_upload(files, content=content)
    assert await library.versions() == []


@pytest.mark.parametrize("name", ["m.tar.gz", "m.tar"])
async def test_an_archive_is_unpacked_into_a_version(library: Library, name: str):
    await library.create()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz" if name.endswith("gz") else "w") as archive:
        for path, content in model_files().items():
            info = tarfile.TarInfo(f"model/{path}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    upload_id = await library.open_upload({name: packed.getvalue()}, content=UploadKind.archive)
    await library.send(upload_id, name, packed.getvalue())
    version_id = await library.finish(upload_id)
    await library.settle()
    assert (await library.version(version_id)).state is VersionState.normal
    assert read_tree(library.repository.store.tree(version_id)) == model_files()


async def test_a_refused_upload_fails_and_leaves_nothing(library: Library):
    await library.create()
    files = model_files() | {"model.safetensors": b"no weights"}
    upload_id = await library.open_upload(files)
    for path, content in files.items():
        await library.send(upload_id, path, content)
    version_id = await library.finish(upload_id)
    await library.settle()
    version = await library.version(version_id)
    assert version.state is VersionState.failed
    assert version.error.files[0].path == "model.safetensors"
    assert disk_usage(library.repository.store.root) == 0


async def test_an_aborted_upload_is_gone(library: Library):
    await library.create()
    upload_id = await library.open_upload(model_files())
    await library.send(upload_id, "config.json", model_files()["config.json"])
    async with library.upload(upload_id) as (work, model, upload):
        await uploads.abort_upload(work, model, upload)
    await library.settle()
    assert await library.versions() == []
    assert library.repository.store.names_in("uploads") == []


async def test_an_upload_that_is_not_finished_in_time_fails_its_version(library: Library, clock: ManualClock):
    await library.create()
    upload_id = await library.open_upload(model_files())
    await library.send(upload_id, "config.json", model_files()["config.json"])
    clock.advance((uploads.LIFETIME - timedelta(seconds=1)).total_seconds())
    await library.settle()
    assert (await library.version("main")).state is VersionState.importing
    clock.advance(1)
    await library.settle()
    version = await library.version("main")
    assert (version.state, version.error.code) == (VersionState.failed, "upload-expired")
    assert library.repository.store.names_in("uploads") == []
