"""What the API takes and gives for services."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gpu.estimate.correction import Correction
from gpu.estimate.estimate import Estimate
from gpu.requests import Strategy
from gpu.schemas import Labels
from tenants.limits import Limits

ServiceName = Annotated[
    str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$(?!\n)", description="unique in its tenant")
]
Replicas = Annotated[int, Meta(ge=0, le=128)]
ServedModel = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$(?!\n)", description="default: the service's name")
]
"""What requests call the model; a word of the engine's command line too, so it never looks like an option."""
Description = Annotated[str, Meta(max_length=1000)]
DeviceMemory = Annotated[
    int,
    Meta(ge=1, le=1 << 48, description="what each device must have, instead of the estimate; nothing without devices"),
]


class SamplingDefaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Inserted where the caller set none; changed live. `penalty_score`: repetition_penalty = 1 + penalty_score."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    penalty_score: Annotated[float, Meta(ge=-0.9, le=1)] | None = None
    system_prompt: Annotated[str, Meta(max_length=32768)] | None = None
    max_tokens_ceiling: Annotated[int, Meta(ge=1)] | None = None


class ServiceTimeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Seconds. `first_byte_s` covers the prompt; `idle_s` is the longest gap within an answer; `total_s` bounds the
    whole exchange; `wake_s` is the wait for a service that sleeps.
    """

    connect_s: Annotated[float, Meta(gt=0, le=60)] = 5.0
    first_byte_s: Annotated[float, Meta(gt=0, le=7200)] = 300.0
    idle_s: Annotated[float, Meta(gt=0, le=3600)] = 120.0
    total_s: Annotated[float, Meta(gt=0, le=86400)] = 3600.0
    wake_s: Annotated[float, Meta(gt=0, le=3600)] = 300.0


class Affinity(StrEnum):
    """What requests that go to the same replica have in common: the beginning of the prompt, or the key."""

    none = "none"
    prefix = "prefix"
    key = "key"


class Queue(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests that wait while every replica is full: so many on each of the gateway's workers, each so long."""

    max_queued: Annotated[int, Meta(ge=0, le=100_000)] = 1000
    queue_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0


class Capture(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keep this share (0 to 1) of all requests with their answers, each of the two up to `max_bytes`."""

    share: Annotated[float, Meta(gt=0, le=1)]
    max_bytes: Annotated[int, Meta(ge=1024, le=16 * 1024 * 1024)] = 256 * 1024


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where replicas go from now on; what runs stays where it is.

    `pack` keeps large holes whole, `spread` puts replicas on as many nodes as there are. `node_labels` are those that a
    node must have. `preemptible`: its replicas may be stopped for those of tenants of a higher priority.
    """

    strategy: Strategy = Strategy.pack
    node_labels: Labels = {}
    preemptible: bool = False


class Exposure(StrEnum):
    """`own`: a port of the gateway for the service alone; `shared`: a path on the gateway's shared listener."""

    own = "own"
    shared = "shared"


class CreateService(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Only `name` and `model` are needed; the rest is chosen, and shown in the answer."""

    name: ServiceName
    model: Annotated[str, Meta(description="name or id of a model")]
    model_version: Annotated[str, Meta(description="branch or tag")] | None = None
    runtime: str | None = None
    image: Annotated[str, Meta(description="a registered image of the runtime, by reference or id")] | None = None
    replicas: Replicas = 1
    flavor: str | None = None
    pool: str | None = None
    gateway: str | None = None
    listener: Exposure = Exposure.own
    port: Annotated[int, Meta(ge=1, le=65535, description="only with a listener of its own")] | None = None
    served_model: ServedModel | None = None
    device_memory_bytes: DeviceMemory | None = None
    placement: Placement = Placement()
    description: Description = ""
    args: list[str] = []
    env: dict[str, str] = {}
    defaults: SamplingDefaults = SamplingDefaults()
    timeouts: ServiceTimeouts = ServiceTimeouts()
    limits: Limits = Limits()
    affinity: Affinity = Affinity.prefix
    queue: Queue = Queue()
    capture: Capture | None = None


class UpdateService(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Members that are absent stay as they are; one that is an object is replaced as a whole. Nothing is restarted."""

    replicas: Replicas | UnsetType = UNSET
    placement: Placement | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    defaults: SamplingDefaults | UnsetType = UNSET
    timeouts: ServiceTimeouts | UnsetType = UNSET
    limits: Limits | UnsetType = UNSET
    affinity: Affinity | UnsetType = UNSET
    queue: Queue | UnsetType = UNSET
    capture: Capture | UnsetType | None = UNSET
    """Null captures nothing."""


class ShareService(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All further tenants, by name or id, whose keys may use the service; none ends the sharing."""

    tenants: Annotated[list[str], Meta(max_length=1000)]


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    state: str
    reason: str
    generation: int
    node_id: str | None
    created_at: datetime
    started_at: datetime | None
    ready_at: datetime | None
    ended_at: datetime | None
    exit: Any


class MemoryNeeds(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica takes of each of its devices, in bytes, as found when it was published.

    `device_memory_bytes` is what a device must have: what a person gave, or the breakdown's total by `share`, the part
    of a device that the engine takes; 0 without devices. `reason` is why the flavor was chosen where none was named,
    `problem` why nothing could be estimated where nothing had to be. The breakdown is for `concurrency` sequences of
    `context` tokens, with cache and overhead by the factors of the correction.
    """

    source: str
    reason: str
    problem: str | None
    device_memory_bytes: int
    devices: int
    context: int | None
    concurrency: int | None
    share: float
    breakdown: Estimate | None
    correction: Correction


class DeploymentView(msgspec.Struct, frozen=True, kw_only=True):
    """`preemptions` counts the replicas that left for those of tenants of a higher priority, since it was made."""

    id: str
    name: str
    generation: int
    weight: int
    model: str
    model_version: str
    runtime: str
    image: str | None
    flavor: str
    memory: MemoryNeeds | None
    placement: Placement
    preemptions: int
    replicas: int
    ready_replicas: int
    args: list[str]
    env: dict[str, str]
    failures: int
    next_start_at: datetime | None
    current: list[ReplicaView]


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """`url` is the base of the OpenAI API, `urls` every one that leads to the service, of shared listeners too.
    `shared_with` are the names of further tenants whose keys may use it.
    """

    id: str
    tenant: str
    tenant_id: str
    name: str
    description: str
    served_model: str
    desired: str
    state: str
    reason: str
    state_since: datetime
    gateway: str | None
    listener: Exposure
    port: int | None
    url: str | None
    urls: list[str]
    defaults: SamplingDefaults
    timeouts: ServiceTimeouts
    limits: Limits
    affinity: Affinity
    queue: Queue
    capture: Capture | None
    shared_with: list[str]
    replicas: int
    ready_replicas: int
    actions: list[str]
    version: int
    created_at: datetime
    updated_at: datetime
    deployments: list[DeploymentView]


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    replica_id: str | None
    at: datetime
    phase: str
    message: str
    detail: Any
