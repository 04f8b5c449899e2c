"""What the API takes and gives for services."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

ServiceName = Annotated[
    str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$(?!\n)", description="unique in its tenant")
]
Replicas = Annotated[int, Meta(ge=0, le=128)]
ServedModel = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$(?!\n)", description="default: the service's name")
]
"""What requests call the model; a word of the engine's command line too, so it never looks like an option."""
Description = Annotated[str, Meta(max_length=1000)]


class SamplingDefaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Inserted where the caller set none; changed live. `penalty_score`: repetition_penalty = 1 + penalty_score."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    penalty_score: Annotated[float, Meta(ge=-0.9, le=1)] | None = None
    system_prompt: Annotated[str, Meta(max_length=32768)] | None = None
    max_tokens_ceiling: Annotated[int, Meta(ge=1)] | None = None


class ServiceTimeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Seconds. `first_byte_s` covers the queue and the prompt; `idle_s` is the longest gap within a stream."""

    connect_s: Annotated[float, Meta(gt=0, le=60)] = 5.0
    first_byte_s: Annotated[float, Meta(gt=0, le=7200)] = 300.0
    idle_s: Annotated[float, Meta(gt=0, le=3600)] = 120.0
    total_s: Annotated[float, Meta(gt=0, le=86400)] = 3600.0


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
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    served_model: ServedModel | None = None
    description: Description = ""
    args: list[str] = []
    env: dict[str, str] = {}
    defaults: SamplingDefaults = SamplingDefaults()
    timeouts: ServiceTimeouts = ServiceTimeouts()


class UpdateService(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Members that are absent stay as they are."""

    replicas: Replicas | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    defaults: SamplingDefaults | UnsetType = UNSET
    timeouts: ServiceTimeouts | UnsetType = UNSET


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


class DeploymentView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    generation: int
    weight: int
    model: str
    model_version: str
    runtime: str
    image: str | None
    flavor: str
    replicas: int
    ready_replicas: int
    args: list[str]
    env: dict[str, str]
    failures: int
    next_start_at: datetime | None
    current: list[ReplicaView]


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
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
    port: int | None
    url: str | None
    defaults: SamplingDefaults
    timeouts: ServiceTimeouts
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
