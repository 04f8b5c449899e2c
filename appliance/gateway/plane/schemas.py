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
TENANTS_SHARD: Final = "tenants"


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
    """Without a service it is shared: its requests go to the services that name `gateway_id`, by their path's first
    segment or their body's `model`. Seconds: `head_s` for a whole head, `idle_s` between requests; bytes per second
    that a body must come with on average once `body_grace_s` are over. `tls_by_name`: the certificates for clients that
    ask for these names (`*.` stands for any one label); all others get that of `tls`.
    """

    id: str
    gateway_id: str
    host: str
    port: int
    service_id: str | None = None
    tls: TlsFiles | None = None
    max_body_bytes: int = 32 * 1024 * 1024
    head_s: float = 10.0
    idle_s: float = 75.0
    body_grace_s: float = 10.0
    body_min_rate: int = 1024
    tls_by_name: dict[str, TlsFiles] = {}


class NodeSettings(Struct, frozen=True):
    """Of all workers of the node; bytes. `spool_bytes` bounds the usage that waits for the control plane (older usage
    is then summed up, and refused when that does not help), `capture_bytes` the captures that wait, `access_log_bytes`
    the access log before it is rotated.
    """

    access_log: bool = True
    spool_bytes: int = 1024 * 1024 * 1024
    capture_bytes: int = 1024 * 1024 * 1024
    access_log_bytes: int = 256 * 1024 * 1024


class ListenersShard(Struct, frozen=True):
    listeners: list[Listener]
    workers: int = 1
    settings: NodeSettings = NodeSettings()


class Limits(Struct, frozen=True, omit_defaults=True):
    """What a key, a service or a tenant may use on this node, all its workers together; None is no limit.

    The minute slides: what was used in the minute before counts in proportion to what of it is still within the
    last 60 seconds. Tokens are those of prompt and answer.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None


Period = Literal["total", "day", "month"]


class Budget(Struct, frozen=True, omit_defaults=True):
    """A hard bound on tokens in each period (days and months of UTC); `id` is unique over all budgets.

    `spent` is what the database had counted in the period that begins at `spent_since` (Unix seconds): a floor for
    a node whose own count was lost.
    """

    id: str
    tokens: int
    period: Period = "total"
    spent: int = 0
    spent_since: float = 0.0


Priority = Literal["low", "normal", "high"]


class TenantEntry(Struct, frozen=True, omit_defaults=True):
    """`priority` orders its waiting requests, here and in the engine; `cache_salt` keeps its prefix cache apart."""

    name: str
    limits: Limits = Limits()
    budgets: list[Budget] = []
    priority: Priority = "normal"
    cache_salt: str | None = None


class TenantsShard(Struct, frozen=True):
    """By the tenant's id."""

    tenants: dict[str, TenantEntry]


class KeyEntry(Struct, frozen=True):
    """`services` None: every service of the tenant; `routes` None: every route ("METHOD /path") of a service;
    `networks`, if there are any: the only networks (CIDR) that it may be used from. `expires_at`: Unix seconds.
    """

    key_id: str
    tenant_id: str
    name: str = ""
    scopes: list[str] = field(default_factory=lambda: [SCOPE_INFERENCE])
    services: list[str] | None = None
    expires_at: float | None = None
    routes: list[str] | None = None
    networks: list[str] = []
    limits: Limits = Limits()
    budgets: list[Budget] = []


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
    """Seconds. `idle_s` is the longest silence within an answer, `total_s` bounds the whole exchange, `queue_s` the
    wait for a replica with room, `wake_s` the wait for a service that sleeps.
    """

    connect_s: float = 2.0
    first_byte_s: float = 600.0
    idle_s: float = 120.0
    total_s: float = 3600.0
    queue_s: float = 30.0
    wake_s: float = 300.0


class Replica(Struct, frozen=True):
    """`owner_uid`: who must own the socket and be listening on it; None accepts anyone."""

    id: str
    socket: str
    owner_uid: int | None = None
    max_in_flight: int | None = None


class Deployment(Struct, frozen=True):
    """`weight` is a share among the deployments that have a replica; 0 takes only what is addressed to it by name
    or mirrored.
    """

    id: str
    name: str
    weight: float
    replicas: list[Replica]


Affinity = Literal["none", "prefix", "key"]
"""What requests that go to the same replica have in common: the beginning of the prompt, or the key."""


class Mirror(Struct, frozen=True):
    """This share of the live requests is also sent to a deployment whose answers are read and dropped."""

    deployment_id: str
    percent: float


class Capture(Struct, frozen=True):
    """Requests and answers are kept, of this share (0 to 1) of all requests, each up to `max_bytes`."""

    share: float
    max_bytes: int = 256 * 1024


class ServiceShard(Struct, frozen=True):
    id: str
    tenant_id: str
    tenant_name: str
    name: str
    served_model: str
    deployments: list[Deployment]
    routes: list[str]
    """The allow-list, as "METHOD /path[ raw][ query]" (see `routes`); nothing else reaches an engine. A segment
    `{name}` stands for any one segment of unreserved characters. Errors on routes under `/v2` are told as the Open
    Inference Protocol does.
    """
    aliases: list[str] = []
    usage_in_every_chunk: bool = False
    """Whether the engine understands `stream_options.continuous_usage_stats`."""
    defaults: SamplingDefaults = SamplingDefaults()
    timeouts: Timeouts = Timeouts()
    max_body_bytes: int = 32 * 1024 * 1024
    cache_salt: str | None = None
    created_at: int = 0
    """Unix seconds, for the list of models."""
    gateway_id: str | None = None
    """Whose shared listeners lead here, too."""
    shared_with: list[str] = []
    """Further tenants whose keys may use the service."""
    limits: Limits = Limits()
    budgets: list[Budget] = []
    affinity: Affinity = "prefix"
    mirror: Mirror | None = None
    capture: Capture | None = None
    max_queued: int = 1000
    """Requests that may wait for room, on each worker."""
    context_tokens: int | None = None
    """The longest prompt and answer together; what an answer without a limit of its own is taken to need."""
    priorities: bool = False
    """Whether the engine schedules by the request's `priority` (lower comes first)."""
    asleep: bool = False
    """No replica runs because nobody asked: a request wakes the service and waits."""
    remote_media: bool = False
    """Whether messages may name public https URLs for the engine to fetch. Else media come as `data:` URIs."""


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

    `tenant_id` is the key's. `inter_token_count` tokens came after the first piece of a stream, `inter_token_ms`
    after it in all: their quotient is the mean time between tokens.
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
    inter_token_count: int = 0
    inter_token_ms: float = 0.0


class UsageRollup(Struct, frozen=True, tag="rollup", omit_defaults=True):
    """The sums of many usage records, which it stands for: of one tenant, key, service and model within `span_s`
    seconds from `at` (Unix seconds). `requests` counts them, `failed` those with a status of 400 or more, `cut`
    those without a status, `estimated` those whose tokens the engine did not tell.
    """

    record_id: str
    at: float
    span_s: int
    tenant_id: str
    key_id: str
    service_id: str
    model: str
    requests: int
    failed: int = 0
    cut: int = 0
    estimated: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tail_tokens: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    duration_ms: float = 0.0
    queue_ms: float = 0.0


class Durations(Struct, frozen=True, omit_defaults=True):
    """A mergeable histogram: how many durations fell into each bucket (`plane/histograms.py` says which durations
    bucket n holds), and their sum. Equal buckets of any two are added to merge them.
    """

    buckets: dict[int, int] = {}
    sum_s: float = 0.0


class LatencyRecord(Struct, frozen=True, tag="latency", omit_defaults=True):
    """How fast one deployment was, for the requests that ended within `span_s` seconds from `at` (Unix seconds), as
    one worker saw it; records of several workers and times are merged. `tenant_id` owns the service. `failed` are
    requests with a status of 400 or more or without one. `first_token` and `inter_token` are of streams.
    """

    record_id: str
    at: float
    span_s: int
    tenant_id: str
    service_id: str
    deployment_id: str
    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    duration: Durations = Durations()
    queue: Durations = Durations()
    first_token: Durations = Durations()
    inter_token: Durations = Durations()


class CaptureRecord(Struct, frozen=True, tag="capture", omit_defaults=True):
    """A request and its answer. `record_id` is its usage record's. `tenant_id` is the key's, the service's owner may
    be another. `request` and `answer` are JSON texts (a stream as the one answer that it amounts to); one that was
    cut off at the service's bound is not whole, and is then marked so. `is_cut`: the answer did not come to its end.
    """

    record_id: str
    request_id: str
    at: float
    tenant_id: str
    key_id: str
    service_id: str
    deployment_id: str
    route: str
    model: str
    status: int
    outcome: Outcome
    request: str
    answer: str
    stream: bool = False
    is_cut: bool = False
    request_is_short: bool = False
    answer_is_short: bool = False


SpoolRecord = UsageRecord | UsageRollup | LatencyRecord
