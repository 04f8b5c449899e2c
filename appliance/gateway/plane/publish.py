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

from appliance.gateway.plane.schemas import Manifest
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

    def current(self) -> Manifest | None:
        """The manifest in force, None if there is none (or none that can be read)."""
        return _read_manifest(self._directory / MANIFEST)

    def publish(self, shards: Mapping[str, msgspec.Struct]) -> int:
        """Make `shards` (id to content) the current set and return its version.

        Nothing is written, and the version stays, if nothing changed. Blocks on fsync: call it in a thread.
        `ValueError` for an id that is no file name.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        contents: dict[str, bytes] = {}
        names: dict[str, str] = {}
        for shard_id, shard in sorted(shards.items()):
            if not _SHARD_ID.fullmatch(shard_id):
                raise ValueError(f"shard id {shard_id!r}: only a-z, 0-9, _ and - are allowed, at most 80")
            content = self._encoder.encode(shard)
            name = f"{shard_id}-{hashlib.sha256(content).hexdigest()[:_HASH_CHARACTERS]}.json"
            contents[name] = content
            names[shard_id] = name
        current = self.current()
        if current is not None and current.shards == names and self._all_present(contents):
            return current.version
        self._write_shards(contents)
        return self._replace_manifest(current, names)

    def _all_present(self, contents: Mapping[str, bytes]) -> bool:
        return self._present().issuperset(contents)

    def _present(self) -> set[str]:
        return {path.name for path in self._directory.iterdir()}

    def _write_shards(self, contents: Mapping[str, bytes]) -> None:
        present = self._present()
        for name, content in contents.items():
            if name not in present:
                write_atomic(self._directory / name, content)

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
