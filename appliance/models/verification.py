"""Whether a version's files on this node are what was imported: each content read once and compared with its SHA-256.

What was read is recorded beside the store, by content, with the file's inode, size and time of change: a restart, a
further replica or another version with the same content reads nothing again, and a file that was changed or replaced
is read again. A damage of the disk that leaves all of these alone is only found by the reading that it meets.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from appliance.kernel.db import Database
from appliance.kernel.files import write_atomic
from appliance.kernel.logging import get_logger
from appliance.kernel.progress import Progress
from appliance.models import queries
from appliance.models.errors import ModelDamaged
from appliance.models.store import Store, StoredFile

log = get_logger(__name__)
_BLOCK: Final = 4 * 1024 * 1024
_THREADS: Final = 4


class _Look(msgspec.Struct, frozen=True):
    """What tells a file from what it was before."""

    device: int
    inode: int
    size: int
    mtime_ns: int


class ModelVerifier:
    """At most four versions are read at once; what asks for the same one waits for the one who reads it."""

    def __init__(self, database: Database, store: Store) -> None:
        self._database, self._store = database, store
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="verify")
        self._reading: dict[str, asyncio.Lock] = {}

    async def is_verified(self, version_id: str) -> bool:
        files = await self._files(version_id)
        return await asyncio.to_thread(lambda: not any(self._is_unread(version_id, file) for file in files))

    async def verify(self, version_id: str, progress: Progress) -> None:
        """Read what was not read yet. Raises `ModelDamaged`, or `Stopped` as `progress` says."""
        files = await self._files(version_id)
        loop = asyncio.get_running_loop()
        lock = self._reading.setdefault(version_id, asyncio.Lock())
        try:
            async with lock:
                await loop.run_in_executor(self._threads, self._read_all, version_id, files, progress)
        finally:
            if not lock.locked():
                self._reading.pop(version_id, None)

    async def _files(self, version_id: str) -> Sequence[StoredFile]:
        async with self._database.read() as session:
            rows = await queries.list_files(session, version_id)
        return [StoredFile(row.path, row.sha256, row.size) for row in rows]

    def _read_all(self, version_id: str, files: Sequence[StoredFile], progress: Progress) -> None:
        unread = [file for file in files if self._is_unread(version_id, file)]
        progress.report(0, sum(file.size for file in unread))
        for file in unread:
            self._read(version_id, file, progress)

    def _is_unread(self, version_id: str, file: StoredFile) -> bool:
        try:
            known = msgspec.json.decode(self._store.verified(file.sha256).read_bytes(), type=_Look)
            return known != _look(self._path(version_id, file).stat())
        except (FileNotFoundError, msgspec.DecodeError):
            return True

    def _read(self, version_id: str, file: StoredFile, progress: Progress) -> None:
        digest = hashlib.sha256()
        try:
            with self._path(version_id, file).open("rb", buffering=0) as content:
                look = _look(os.fstat(content.fileno()))
                while block := content.read(_BLOCK):
                    digest.update(block)
                    progress.advance(len(block))
        except FileNotFoundError:
            raise ModelDamaged(f"the model's file {file.path} is missing; import the version again") from None
        except OSError as error:
            raise ModelDamaged(f"the model's file {file.path} cannot be read: {error.strerror}") from error
        if digest.hexdigest() != file.sha256:
            raise ModelDamaged(
                f"the model's file {file.path} is not what was imported: its SHA-256 is {digest.hexdigest()} and was "
                f"{file.sha256}; import the version again"
            )
        try:
            write_atomic(self._store.verified(file.sha256), msgspec.json.encode(look))
        except OSError as error:  # a full disk costs another reading, and no start
            log.warning("model.reading_unrecorded", file=file.path, reason=error.strerror)

    def _path(self, version_id: str, file: StoredFile) -> Path:
        return self._store.tree(version_id) / file.path


def _look(status: os.stat_result) -> _Look:
    return _Look(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
