"""Writing the snapshot: shards first, each synced, then the manifest, atomically.

One publisher at a time (the control lease sees to it). A shard's file name holds its content's hash, so publishing
is idempotent: what did not change is not written. The manifest before the current one stays as
`manifest.previous.json` with its shards: what a reader falls back to when the current set is damaged.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from appliance.gateway.plane.schemas.manifest import Manifest
from appliance.kernel.files import sync_directory, write_atomic

MANIFEST: Final = "manifest.json"
PREVIOUS: Final = "manifest.previous.json"
_SHARD_ID = re.compile(r"[a-z0-9_-]{1,80}")
_HASH_CHARACTERS = 16


class SnapshotWriter:
    """Publishes whole sets of shards into `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._encoder = msgspec.json.Encoder(order="deterministic")
        self._named: dict[str, tuple[msgspec.Struct, str]] = {}
        """What was published last, by shard id: the object, and its file's name."""

    def current(self) -> Manifest | None:
        """The manifest in force, None if there is none (or none that can be read)."""
        return _read_manifest(self._directory / MANIFEST)

    def publish(self, shards: Mapping[str, msgspec.Struct]) -> int:
        """Make `shards` (id to content) the current set and return its version.

        Nothing is written, and the version stays, if nothing changed. Blocks on fsync: call it in a thread.
        `ValueError` for an id that is no file name.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        names = {shard_id: self._name(shard_id, shard) for shard_id, shard in sorted(shards.items())}
        self._named = {shard_id: (shard, names[shard_id]) for shard_id, shard in shards.items()}
        current = self.current()
        present = self._present()
        missing = [shard_id for shard_id, name in names.items() if name not in present]
        if current is not None and current.shards == names and not missing:
            return current.version
        for shard_id in missing:
            write_atomic(self._directory / names[shard_id], self._encoder.encode(shards[shard_id]))
        return self._replace_manifest(current, names)

    def _name(self, shard_id: str, shard: msgspec.Struct) -> str:
        """The shard's file name. An object that was published under the id before is not encoded again: a shard
        never changes in place.
        """
        before = self._named.get(shard_id)
        if before is not None and before[0] is shard:
            return before[1]
        if not _SHARD_ID.fullmatch(shard_id):
            raise ValueError(f"shard id {shard_id!r}: only a-z, 0-9, _ and - are allowed, at most 80")
        digest = hashlib.sha256(self._encoder.encode(shard)).hexdigest()[:_HASH_CHARACTERS]
        return f"{shard_id}-{digest}.json"

    def _present(self) -> set[str]:
        return {path.name for path in self._directory.iterdir()}

    def _replace_manifest(self, current: Manifest | None, names: dict[str, str]) -> int:
        previous = current or _read_manifest(self._directory / PREVIOUS)
        version = 1 if previous is None else previous.version + 1
        if current is None and previous is not None:
            version += 1  # the one that cannot be read had this number, and it may have been acknowledged
        manifest = Manifest(version=version, written_at=time.time(), shards=names)
        if current is not None:
            write_atomic(self._directory / PREVIOUS, msgspec.json.encode(current))
        write_atomic(self._directory / MANIFEST, msgspec.json.encode(manifest))
        self._collect_garbage(keep=[manifest, previous] if previous else [manifest])
        return manifest.version

    def _collect_garbage(self, keep: list[Manifest]) -> None:
        named = {name for manifest in keep for name in manifest.shards.values()} | {MANIFEST, PREVIOUS}
        for name in self._present():
            if name not in named and name.endswith(".json"):
                (self._directory / name).unlink(missing_ok=True)
        sync_directory(self._directory)


def _read_manifest(path: Path) -> Manifest | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
