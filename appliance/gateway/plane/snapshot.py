"""Reading the snapshot: watch the manifest, decode only shards that are new, keep the last good set.

A set is taken whole or not at all: a shard that is missing or damaged leaves the set before in force, and the
reason is reported. A process that starts onto a damaged set falls back to the manifest before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from appliance.gateway.plane.publish import MANIFEST, PREVIOUS
from appliance.gateway.plane.schemas.listeners import ListenersShard
from appliance.gateway.plane.schemas.manifest import KEY_BUCKETS, LISTENERS_SHARD, TENANTS_SHARD, Manifest, key_shard
from appliance.gateway.plane.schemas.services import ServiceShard
from appliance.gateway.plane.schemas.tenants import KeyEntry, KeysShard, TenantEntry, TenantsShard

_MANIFEST_DECODER: Final = msgspec.json.Decoder(Manifest)
Shard = ListenersShard | KeysShard | ServiceShard | TenantsShard

_DECODERS: Final[Mapping[str, msgspec.json.Decoder[Shard]]] = {
    "listeners": msgspec.json.Decoder(ListenersShard),
    "keys": msgspec.json.Decoder(KeysShard),
    "service": msgspec.json.Decoder(ServiceShard),
    TENANTS_SHARD: msgspec.json.Decoder(TenantsShard),
}


class Snapshot(msgspec.Struct, frozen=True):
    """One consistent set. `services` by id; `key_shards` by bucket number."""

    version: int
    listeners: ListenersShard
    services: dict[str, ServiceShard]
    key_buckets: list[dict[str, KeyEntry]]
    tenants: dict[str, TenantEntry] = {}


class SnapshotReader:
    """`kinds` are the shard kinds to decode: the supervisor needs the listeners only."""

    def __init__(self, directory: Path, kinds: frozenset[str] = frozenset(_DECODERS)) -> None:
        self._directory = directory
        self._kinds = kinds
        self._decoded: dict[str, Shard] = {}
        """By file name; a file never changes."""
        self._seen: tuple[int, int, int] | None = None
        self.current: Snapshot | None = None
        self.error = ""

    def poll(self) -> bool:
        """Look at the manifest; True when `current` or `error` changed. A look costs one stat(2)."""
        seen = self._identity()
        if seen is None or seen == self._seen:
            return False
        current, error = self.current, self.error
        while True:
            try:
                self.current, self.error = self._load(MANIFEST), ""
            except (OSError, ValueError, msgspec.DecodeError) as failure:
                now = self._identity()
                if now != seen and now is not None:
                    seen = now  # it was replaced meanwhile, and with it went the shards it named
                    continue
                self.error = f"{type(failure).__name__}: {failure}"
                if self.current is None:
                    self._fall_back()
            self._seen = seen
            return self.current is not current or self.error != error

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            found = (self._directory / MANIFEST).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _fall_back(self) -> None:
        try:
            self.current = self._load(PREVIOUS)
        except (OSError, ValueError, msgspec.DecodeError):
            return  # the error that is reported is the current set's

    def _load(self, name: str) -> Snapshot:
        manifest = _MANIFEST_DECODER.decode((self._directory / name).read_bytes())
        decoded = {
            file: self._decoded.get(file) or self._decode(shard_id, file)
            for shard_id, file in manifest.shards.items()
            if shard_id.partition("-")[0] in self._kinds
        }
        snapshot = _assemble(manifest, decoded)
        self._decoded = decoded
        return snapshot

    def _decode(self, shard_id: str, file: str) -> Shard:
        if "/" in file or file.startswith("."):
            raise ValueError(f"shard file name {file!r}")
        content = (self._directory / file).read_bytes()
        expected = file.removesuffix(".json").rpartition("-")[2]
        if not expected or not hashlib.sha256(content).hexdigest().startswith(expected):
            raise ValueError(f"{file} does not have the content that its name promises")
        return _DECODERS[shard_id.partition("-")[0]].decode(content)


def _assemble(manifest: Manifest, decoded: Mapping[str, Shard]) -> Snapshot:
    listeners = ListenersShard(listeners=[])
    services: dict[str, ServiceShard] = {}
    tenants: dict[str, TenantEntry] = {}
    buckets: list[dict[str, KeyEntry]] = [{} for _ in range(KEY_BUCKETS)]
    numbers = {key_shard(f"{number:02x}"): number for number in range(KEY_BUCKETS)}
    for shard_id, file in manifest.shards.items():
        shard = decoded.get(file)
        if isinstance(shard, ServiceShard):
            services[shard.id] = shard
        elif isinstance(shard, KeysShard):
            buckets[numbers[shard_id]] = shard.keys
        elif isinstance(shard, ListenersShard) and shard_id == LISTENERS_SHARD:
            listeners = shard
        elif isinstance(shard, TenantsShard):
            tenants = shard.tenants
    return Snapshot(
        version=manifest.version, listeners=listeners, services=services, key_buckets=buckets, tenants=tenants
    )
