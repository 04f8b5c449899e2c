"""A version's files are read once on a node, and again only where they changed; what is damaged is named."""

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.kernel.db import Database
from appliance.kernel.progress import Progress, Stopped
from appliance.models.errors import ModelDamaged
from appliance.models.store import Store, StoredFile
from appliance.models.tables import BlobRow, ModelFileRow, ModelRow, ModelVersionRow
from appliance.models.verification import ModelVerifier

AT = datetime(2026, 1, 1, tzinfo=UTC)
CONTENT: Mapping[str, bytes] = {"config.json": b"{}", "weights/model.safetensors": b"weights" * 100_000}
TOTAL = sum(map(len, CONTENT.values()))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "models")
    store.prepare()
    return store


@pytest.fixture
async def verifier(database: Database, store: Store) -> ModelVerifier:
    await _version(database, store, "ver_1")
    return ModelVerifier(database, store)


async def _version(database: Database, store: Store, version_id: str) -> None:
    """A version with the content, on disk and in the database."""
    files = []
    for path, content in CONTENT.items():
        sha256 = hashlib.sha256(content).hexdigest()
        fresh = store.root / "incoming" / path.replace("/", "_")
        fresh.write_bytes(content)
        store.place(fresh, sha256, len(content))
        files.append(StoredFile(path, sha256, len(content)))
    store.materialise(version_id, files)
    async with database.write() as session:
        if await session.get(ModelRow, "mdl_1") is None:
            session.add(ModelRow(id="mdl_1", tenant_id=None, name="tiny", description="", created_at=AT))
            session.add_all(BlobRow(sha256=file.sha256, size=file.size, created_at=AT) for file in files)
            await session.flush()
        row = ModelVersionRow(id=version_id, model_id="mdl_1", name=version_id, kind="tag", state="normal")
        row.created_at = AT
        session.add(row)
        await session.flush()
        session.add_all(
            ModelFileRow(version_id=version_id, path=file.path, sha256=file.sha256, size=file.size) for file in files
        )


async def _read(verifier: ModelVerifier, version_id: str = "ver_1") -> int:
    """How many bytes a verification reads."""
    progress = Progress()
    await verifier.verify(version_id, progress)
    assert progress.done == progress.total
    return progress.done


def _weights(store: Store, version_id: str = "ver_1") -> Path:
    return store.tree(version_id) / "weights" / "model.safetensors"


async def test_what_was_read_is_not_read_again(database: Database, store: Store, verifier: ModelVerifier) -> None:
    assert not await verifier.is_verified("ver_1")
    assert await _read(verifier) == TOTAL
    assert await verifier.is_verified("ver_1")
    assert await _read(ModelVerifier(database, store)) == 0  # as after a restart


async def test_another_version_of_the_same_content_is_not_read(
    database: Database, store: Store, verifier: ModelVerifier
) -> None:
    await _read(verifier)
    await _version(database, store, "ver_2")
    assert await verifier.is_verified("ver_2")


async def test_who_asks_for_the_same_version_waits_and_reads_nothing(verifier: ModelVerifier) -> None:
    assert sorted(await asyncio.gather(*(_read(verifier) for _ in range(3)))) == [0, 0, TOTAL]


async def test_a_changed_file_is_read_again_and_named(store: Store, verifier: ModelVerifier) -> None:
    await _read(verifier)
    _weights(store).chmod(0o644)
    with _weights(store).open("r+b") as weights:
        weights.write(b"W")
    assert not await verifier.is_verified("ver_1")
    for _ in range(2):  # nothing of it is taken for verified
        with pytest.raises(ModelDamaged, match=r"weights/model.safetensors is not what was imported"):
            await _read(verifier)


async def test_a_missing_file_is_named(store: Store, verifier: ModelVerifier) -> None:
    await _read(verifier)
    _weights(store).unlink()
    assert not await verifier.is_verified("ver_1")
    with pytest.raises(ModelDamaged, match=r"weights/model.safetensors is missing") as failed:
        await _read(verifier)
    assert str(store.root) not in failed.value.detail


async def test_it_ends_when_nobody_waits_any_more(verifier: ModelVerifier) -> None:
    progress = Progress()
    progress.stop()
    with pytest.raises(Stopped):
        await verifier.verify("ver_1", progress)
    assert not await verifier.is_verified("ver_1")


async def test_a_record_that_cannot_be_read_costs_a_reading(store: Store, verifier: ModelVerifier) -> None:
    await _read(verifier)
    for record in (store.root / "verified").iterdir():
        record.write_bytes(b"")
    assert await _read(verifier) == TOTAL
