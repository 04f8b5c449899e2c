"""The manifest of a snapshot, and how its shards are named."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

KEY_BUCKETS: Final = 64
"""Keys are spread over this many shards, so that one new key has one small shard decoded again."""

LISTENERS_SHARD: Final = "listeners"
TENANTS_SHARD: Final = "tenants"


def key_shard(sha256_hex: str) -> str:
    """The id of the shard that holds the key with this hash."""
    return f"keys-{int(sha256_hex[:2], 16) % KEY_BUCKETS:02d}"


def service_shard(service_id: str) -> str:
    return f"service-{service_id}"


class Manifest(Struct, frozen=True):
    """Names one whole, consistent set of shards. `version` grows by one with each manifest."""

    version: int
    written_at: float
    """Unix seconds."""
    shards: dict[str, str]
    """Shard id to file name; the name ends with the content's hash, so a file never changes."""
