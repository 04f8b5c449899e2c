"""The file work of one import, from its source to a tree that an engine can mount. Runs in a thread, touches no
database, and may be begun again after a crash at any point: it starts by clearing away what an earlier run left.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from appliance.models.archives import Bounds, stage_archive
from appliance.models.copying import Staged, out_of_space
from appliance.models.directories import Directory, stage_directory
from appliance.models.errors import ImportFailed, ModelRefused, Refusal
from appliance.models.inspection import Inspection
from appliance.models.metadata import ModelMetadata
from appliance.models.parts import Part
from appliance.models.progress import Phase, Progress
from appliance.models.repository import ModelRepository
from appliance.models.states import Source
from appliance.models.store import StoredFile


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be imported. `files` are an upload's announced files, by number, or the source version's;
    `metadata` is the source version's.
    """

    version_id: str
    model_id: str
    tenant_id: str | None
    source: Source
    location: str
    files: tuple[StoredFile, ...] = ()
    metadata: ModelMetadata | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    files: tuple[StoredFile, ...]
    metadata: ModelMetadata


class Notices(NamedTuple):
    """What an import tells before it acts: that it will refer to the content of a SHA-256, and the lengths of the files
    that it will write. The latter waits for the answer, and raises what ends the import.
    """

    claim: Callable[[str], None]
    reserve: Callable[[Sequence[int]], None]


def ingest(repository: ModelRepository, order: Order, progress: Progress, notices: Notices) -> Imported:
    """Do it; the version's tree is there afterwards. Raises `ModelRefused`, `InsufficientStorage`, `ImportFailed`,
    `ImportStopped`, and what `notices.reserve` raises.
    """
    store = repository.store
    store.discard("versions", order.version_id)
    incoming = store.incoming(order.version_id)
    shutil.rmtree(incoming, ignore_errors=True)
    try:
        with out_of_space():
            incoming.mkdir(parents=True)
            if order.source is Source.version:
                imported = _from_version(repository, order, notices.claim)
            else:
                imported = _from_files(repository, order, progress, notices)
            store.materialise(order.version_id, imported.files)
    except OSError as error:
        raise ImportFailed(f"reading or writing failed: {error.strerror}: {error.filename}") from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return imported


def _from_version(repository: ModelRepository, order: Order, claim: Callable[[str], None]) -> Imported:
    if order.metadata is None:
        raise ImportFailed("the version that was to be tagged is gone")
    for file in order.files:
        claim(file.sha256)
        if not repository.store.has(file.sha256, file.size):
            raise ImportFailed(f"the content of {file.path!r} is missing from the store; import the model again")
    return Imported(order.files, order.metadata)


def _from_files(repository: ModelRepository, order: Order, progress: Progress, notices: Notices) -> Imported:
    inspection = Inspection()
    staged, left_out = _stage(repository, order, inspection, progress, notices.reserve)
    metadata = inspection.finish(left_out=left_out)
    progress.begin(Phase.storing, sum(file.size for file in staged))
    for file in staged:
        notices.claim(file.sha256)
        repository.store.place(file.file, file.sha256, file.size)
        progress.advance(file.size)
    return Imported(tuple(StoredFile(file.path, file.sha256, file.size) for file in staged), metadata)


def _stage(
    repository: ModelRepository,
    order: Order,
    inspection: Inspection,
    progress: Progress,
    reserve: Callable[[Sequence[int]], None],
) -> tuple[Sequence[Staged], Sequence[str]]:
    incoming = repository.store.incoming(order.version_id)
    match order.source:
        case Source.directory:
            found = Directory(Path(order.location), repository.import_roots)
            return stage_directory(found, incoming, inspection, progress, reserve=reserve)
        case Source.archive:
            archive = _linked(repository, order, 0, incoming / order.files[0].path)
            bounds = Bounds(repository.upload_bytes, reserve)
            return stage_archive(archive, incoming, inspection, progress, bounds=bounds)
        case _:
            return _stage_upload(repository, order, incoming, inspection, progress), ()


def _stage_upload(
    repository: ModelRepository, order: Order, incoming: Path, inspection: Inspection, progress: Progress
) -> list[Staged]:
    progress.begin(Phase.checking, sum(file.size for file in order.files))
    staged = []
    for number, file in enumerate(order.files):
        target = _linked(repository, order, number, incoming / f"{number:04d}")
        inspection.add(file.path, target)
        progress.advance(file.size)
        staged.append(Staged(file.path, target, file.sha256, file.size))
    return staged


def _linked(repository: ModelRepository, order: Order, number: int, target: Path) -> Path:
    """A second name for a finished part, so that the part itself stays until the import has ended."""
    file = order.files[number]
    part = Part(repository.store.upload(order.location), number, file.size)
    if file.size == 0:
        target.touch(mode=0o600)
    elif not part.done.exists():
        raise ModelRefused([Refusal(file.path, "its bytes are gone from the server; upload it again")])
    else:
        target.hardlink_to(part.done)
    return target
