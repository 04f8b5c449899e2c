"""Metered requests. No foreign keys: a record outlives the key, service and tenant that it names."""

from __future__ import annotations

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from appliance.kernel.tables import Base, Bytes, Instant, Json, Name


class UsageRow(Base):
    """One attempt of one request; `record_id` makes ingesting it twice the same as once (invariant I4)."""

    __tablename__ = "usage_records"
    __table_args__ = (
        Index("ix_usage_records_tenant_id_at", "tenant_id", "at"),
        Index("ix_usage_records_service_id_at", "service_id", "at"),
        Index("ix_usage_records_key_id_at", "key_id", "at"),
        Index("ix_usage_records_at", "at"),
    )

    record_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    request_id: Mapped[Name]
    at: Mapped[Instant]
    tenant_id: Mapped[Name]
    key_id: Mapped[Name]
    service_id: Mapped[Name]
    deployment_id: Mapped[Name]
    replica_id: Mapped[Name]
    route: Mapped[Name]
    model: Mapped[str] = mapped_column(String(255))
    status: Mapped[int]
    outcome: Mapped[Name]
    prompt_tokens: Mapped[Bytes]
    completion_tokens: Mapped[Bytes]
    estimated: Mapped[bool]
    tail_tokens: Mapped[Bytes]
    stream: Mapped[bool]
    bytes_in: Mapped[Bytes]
    bytes_out: Mapped[Bytes]
    queue_ms: Mapped[float]
    ttft_ms: Mapped[float | None]
    duration_ms: Mapped[float]
    inter_token_count: Mapped[Bytes] = mapped_column(default=0, server_default="0")
    inter_token_ms: Mapped[float] = mapped_column(default=0.0, server_default="0")


class UsageRollupRow(Base):
    """The sums of many requests of one tenant, key, service and model within `span_s` seconds from `at`: what a
    gateway keeps of its usage when the control plane is away for long. Ingesting one twice is the same as once.
    """

    __tablename__ = "usage_rollups"
    __table_args__ = (Index("ix_usage_rollups_tenant_id_at", "tenant_id", "at"), Index("ix_usage_rollups_at", "at"))

    record_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    at: Mapped[Instant]
    span_s: Mapped[int]
    tenant_id: Mapped[Name]
    key_id: Mapped[Name]
    service_id: Mapped[Name]
    model: Mapped[str] = mapped_column(String(255))
    requests: Mapped[Bytes]
    failed: Mapped[Bytes]
    cut: Mapped[Bytes]
    estimated: Mapped[Bytes]
    prompt_tokens: Mapped[Bytes]
    completion_tokens: Mapped[Bytes]
    tail_tokens: Mapped[Bytes]
    bytes_in: Mapped[Bytes]
    bytes_out: Mapped[Bytes]
    duration_ms: Mapped[float]
    queue_ms: Mapped[float]


class LatencyRow(Base):
    """How fast one deployment was within `span_s` seconds from `at`, as one worker saw it; `tenant_id` owns the
    service. The four histograms are mergeable: buckets to counts, and the sum.
    """

    __tablename__ = "latency_records"
    __table_args__ = (
        Index("ix_latency_records_service_id_at", "service_id", "at"),
        Index("ix_latency_records_at", "at"),
    )

    record_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    at: Mapped[Instant]
    span_s: Mapped[int]
    tenant_id: Mapped[Name]
    service_id: Mapped[Name]
    deployment_id: Mapped[Name]
    requests: Mapped[Bytes]
    failed: Mapped[Bytes]
    prompt_tokens: Mapped[Bytes]
    completion_tokens: Mapped[Bytes]
    duration: Mapped[Json]
    queue: Mapped[Json]
    first_token: Mapped[Json]
    inter_token: Mapped[Json]
