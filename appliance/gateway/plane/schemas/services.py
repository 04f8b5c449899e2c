"""Services with their deployments and replicas, as a snapshot has them: a shard for each."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from appliance.gateway.plane.schemas.limits import Budget, Limits


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
