"""Everything that crosses between the planes, as msgspec Structs.

Readers ignore members that they do not know, and every member added later has a default, so that planes of
neighbouring versions understand each other.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct, field

KEY_BUCKETS: Final = 64
"""Keys are spread over this many shards, so that one new key has one small shard decoded again."""

SCOPE_INFERENCE: Final = "inference"

LISTENERS_SHARD: Final = "listeners"


def key_shard(sha256_hex: str) -> str:
    """The id of the shard that holds the key with this hash."""
    return f"keys-{int(sha256_hex[:2], 16) % KEY_BUCKETS:02d}"


def service_shard(service_id: str) -> str:
    return f"service-{service_id}"


# Snapshot: control plane to workers


class Manifest(Struct, frozen=True):
    """Names one whole, consistent set of shards. `version` grows by one with each manifest."""

    version: int
    written_at: float
    """Unix seconds."""
    shards: dict[str, str]
    """Shard id to file name; the name ends with the content's hash, so a file never changes."""


class TlsFiles(Struct, frozen=True):
    """PEM files, read again when they change."""

    certificate: str
    key: str


class Listener(Struct, frozen=True):
    id: str
    gateway_id: str
    host: str
    port: int
    service_id: str | None = None
    tls: TlsFiles | None = None


class ListenersShard(Struct, frozen=True):
    listeners: list[Listener]
    workers: int = 1


class KeyEntry(Struct, frozen=True):
    """`services` None: every service of the tenant. `expires_at`: Unix seconds."""

    key_id: str
    tenant_id: str
    name: str = ""
    scopes: list[str] = field(default_factory=lambda: [SCOPE_INFERENCE])
    services: list[str] | None = None
    expires_at: float | None = None


class KeysShard(Struct, frozen=True):
    """By the SHA-256 of the whole key, in lower-case hexadecimal."""

    keys: dict[str, KeyEntry]


class SamplingDefaults(Struct, frozen=True):
    """Inserted only where the caller set none; `max_tokens_ceiling` also bounds what the caller sets."""

    temperature: float | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    system_prompt: str | None = None
    max_tokens_ceiling: int | None = None


class Timeouts(Struct, frozen=True):
    """Seconds. `idle_s` is the longest silence within an answer, `total_s` bounds the whole exchange."""

    connect_s: float = 2.0
    first_byte_s: float = 600.0
    idle_s: float = 120.0
    total_s: float = 3600.0


class Replica(Struct, frozen=True):
    """`owner_uid`: who must own the socket and be listening on it; None accepts anyone."""

    id: str
    socket: str
    owner_uid: int | None = None
    max_in_flight: int | None = None


class Deployment(Struct, frozen=True):
    """`weight` is a share among the deployments that have a replica; 0 takes no traffic."""

    id: str
    name: str
    weight: float
    replicas: list[Replica]


class ServiceShard(Struct, frozen=True):
    id: str
    tenant_id: str
    tenant_name: str
    name: str
    served_model: str
    deployments: list[Deployment]
    routes: list[str]
    """The allow-list, as "METHOD /path"; nothing else reaches an engine."""
    aliases: list[str] = []
    usage_in_every_chunk: bool = False
    """Whether the engine understands `stream_options.continuous_usage_stats`."""
    defaults: SamplingDefaults = SamplingDefaults()
    timeouts: Timeouts = Timeouts()
    max_body_bytes: int = 32 * 1024 * 1024
    cache_salt: str | None = None
    created_at: int = 0
    """Unix seconds, for the list of models."""


# Status: workers and supervisor to control plane


class ListenerStatus(Struct, frozen=True):
    """`error` says why the address could not be bound; binding is tried again until it succeeds."""

    id: str
    host: str
    port: int
    bound: bool
    error: str | None = None


class ListenersReport(Struct, frozen=True):
    """`gateway/status/listeners.json`. `version` is the manifest the supervisor acted on."""

    version: int
    supervisor_pid: int
    workers: int
    listeners: list[ListenerStatus]
    snapshot_error: str | None = None


# Spool: workers to control plane

Outcome = Literal["completed", "client_cut", "upstream_cut", "upstream_error", "timed_out", "worker_lost", "refused"]

OUTCOMES: Final[tuple[Outcome, ...]] = (
    "completed",
    "client_cut",
    "upstream_cut",
    "upstream_error",
    "timed_out",
    "worker_lost",
    "refused",
)


class UsageRecord(Struct, frozen=True, tag="usage", omit_defaults=True):
    """One attempt of one request. `record_id` is unique for ever; `request_id` is what the client saw (and may
    have chosen itself, so it is not unique).

    `prompt_tokens` and `completion_tokens` are the engine's own counts, unless `estimated`. `tail_tokens` is an
    upper bound of what the engine may have generated beyond them when the answer was cut.
    """

    record_id: str
    request_id: str
    at: float
    """Unix seconds at which the request's head was complete."""
    tenant_id: str
    key_id: str
    service_id: str
    deployment_id: str
    replica_id: str
    route: str
    model: str
    status: int
    outcome: Outcome
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    tail_tokens: int = 0
    stream: bool = False
    bytes_in: int = 0
    bytes_out: int = 0
    queue_ms: float = 0.0
    ttft_ms: float | None = None
    duration_ms: float = 0.0
