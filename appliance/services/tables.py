"""Rows of services, deployments, replicas and their events."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, Float, ForeignKey, Index, String, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from appliance.kernel.tables import Base, Bytes, Id, Instant, Json, Name, Text, UtcDateTime


class ServiceRow(Base):
    """The stable name and URL. `state` and `reason` are observed and written by the reconciler alone.

    `gateway_id` is set where the service has no port of its own, only a path on that gateway's shared listener.
    `version` grows with everything that the gateway must hear of, changes of its deployments and shares included;
    which replicas serve is read beside it.
    """

    __tablename__ = "services"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[Id] = mapped_column(primary_key=True)
    tenant_id: Mapped[Id] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[Name]
    description: Mapped[Text]
    served_model: Mapped[Name]
    desired: Mapped[Name]
    state: Mapped[Name]
    reason: Mapped[Text]
    defaults: Mapped[Json]
    timeouts: Mapped[Json]
    limits: Mapped[Json]
    queue: Mapped[Json]
    capture: Mapped[Json]
    affinity: Mapped[str | None] = mapped_column(String(16))
    gateway_id: Mapped[str | None] = mapped_column(String(24), ForeignKey("gateways.id"), index=True)
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[Instant]
    updated_at: Mapped[Instant]
    state_since: Mapped[Instant]


class ServiceShareRow(Base):
    """A further tenant whose keys may use the service."""

    __tablename__ = "service_shares"

    service_id: Mapped[Id] = mapped_column(ForeignKey("services.id", ondelete="CASCADE"), primary_key=True)
    tenant_id: Mapped[Id] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True, index=True)
    created_at: Mapped[Instant]


class DeploymentRow(Base):
    """A desired set of equal replicas with a share of the service's traffic.

    `device_memory_bytes` (of each device), `cpu_millis` and `memory_bytes` are what each replica counts against the
    tenant's quotas, as they were when it was published; `needs` is how the first was found (`services.needs`).
    `strategy`, `node_labels` and `preemptible` are what `schemas.Placement` says; `preemptions` counts the replicas
    that left for others.
    """

    __tablename__ = "deployments"
    __table_args__ = (
        UniqueConstraint("service_id", "name"),
        CheckConstraint("weight BETWEEN 0 AND 100", name="weight_is_percentage"),
        CheckConstraint("replicas >= 0", name="replicas_not_negative"),
        CheckConstraint("strategy IN ('pack', 'spread')", name="known_strategy"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    service_id: Mapped[Id] = mapped_column(ForeignKey("services.id", ondelete="CASCADE"), index=True)
    tenant_id: Mapped[Id]
    name: Mapped[Name]
    generation: Mapped[int] = mapped_column(default=1)
    model_id: Mapped[Id] = mapped_column(index=True)
    model_version_id: Mapped[Id] = mapped_column(ForeignKey("model_versions.id"), index=True)
    model_name: Mapped[Name]
    model_version: Mapped[Name]
    runtime: Mapped[Name]
    image: Mapped[str | None] = mapped_column(String(512))
    pool_id: Mapped[Id] = mapped_column(ForeignKey("pools.id"), index=True)
    flavor_id: Mapped[Id] = mapped_column(ForeignKey("flavors.id"), index=True)
    flavor_name: Mapped[Name]
    devices: Mapped[int]
    device_memory_bytes: Mapped[Bytes] = mapped_column(default=0, server_default="0")
    cpu_millis: Mapped[Bytes] = mapped_column(default=0, server_default="0")
    memory_bytes: Mapped[Bytes] = mapped_column(default=0, server_default="0")
    needs: Mapped[Json]
    strategy: Mapped[str] = mapped_column(String(16), default="pack", server_default="pack")
    node_labels: Mapped[Json]
    preemptible: Mapped[bool] = mapped_column(default=False, server_default=false())
    preemptions: Mapped[int] = mapped_column(default=0, server_default="0")
    replicas: Mapped[int]
    args: Mapped[Json]
    env: Mapped[Json]
    weight: Mapped[int]
    failures: Mapped[int] = mapped_column(default=0)
    next_start_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class ReplicaRow(Base):
    """One start of one engine; a restart is a new row, so that nothing is known by a name twice."""

    __tablename__ = "replicas"
    __table_args__ = (Index("ix_replicas_service_id_state", "service_id", "state"),)

    id: Mapped[Id] = mapped_column(primary_key=True)
    service_id: Mapped[Id] = mapped_column(ForeignKey("services.id", ondelete="CASCADE"))
    deployment_id: Mapped[Id] = mapped_column(ForeignKey("deployments.id", ondelete="CASCADE"))
    tenant_id: Mapped[Id]
    generation: Mapped[int]
    state: Mapped[Name] = mapped_column(index=True)
    outcome: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[Text]
    node_id: Mapped[str | None] = mapped_column(String(24))
    handle: Mapped[str | None] = mapped_column(String(128))
    exit: Mapped[Json]
    created_at: Mapped[Instant]
    deadline_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    ready_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    probe_prompt_tokens: Mapped[int] = mapped_column(default=0)
    probe_completion_tokens: Mapped[int] = mapped_column(default=0)


class EventRow(Base):
    """What happened to a service, as its owner sees it."""

    __tablename__ = "service_events"
    __table_args__ = (Index("ix_service_events_service_id_id", "service_id", "id"),)

    id: Mapped[Id] = mapped_column(primary_key=True)
    service_id: Mapped[Id] = mapped_column(ForeignKey("services.id", ondelete="CASCADE"))
    replica_id: Mapped[str | None] = mapped_column(String(24))
    at: Mapped[Instant]
    phase: Mapped[Name]
    message: Mapped[Text]
    detail: Mapped[Json]


class EstimateCorrectionRow(Base):
    """What engines of a runtime reported of models of a family (their architecture): factors of later estimates."""

    __tablename__ = "estimate_corrections"
    __table_args__ = (
        CheckConstraint("cache > 0 AND overhead > 0", name="factors_positive"),
        CheckConstraint("cache_starts >= 0 AND overhead_starts >= 0", name="starts_not_negative"),
    )

    runtime: Mapped[Name] = mapped_column(primary_key=True)
    family: Mapped[Name] = mapped_column(primary_key=True)
    cache: Mapped[float] = mapped_column(Float())
    cache_starts: Mapped[int]
    overhead: Mapped[float] = mapped_column(Float())
    overhead_starts: Mapped[int]
    updated_at: Mapped[Instant]
