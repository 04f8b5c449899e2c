"""Rows of grants: what of the platform's dedicated compute and gateways a tenant may use, and until when.

A grant has one target, which its kind says; the database keeps both to one another, and a second grant of the same
target out. Pools and gateways are other domains' tables, named here by their names alone.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from appliance.kernel.tables import Base, Id, Instant, Name, UtcDateTime


class GrantRow(Base):
    """`expires_at` NULL: until it is deleted. A grant that has expired stays until then, and grants nothing."""

    __tablename__ = "grants"
    __table_args__ = (
        UniqueConstraint("tenant_id", "pool_id"),
        UniqueConstraint("tenant_id", "gateway_id"),
        UniqueConstraint("tenant_id", "device_class"),
        CheckConstraint("kind IN ('pool', 'gateway', 'device_class')", name="known_kind"),
        CheckConstraint("(kind = 'pool') = (pool_id IS NOT NULL)", name="pool_is_named"),
        CheckConstraint("(kind = 'gateway') = (gateway_id IS NOT NULL)", name="gateway_is_named"),
        CheckConstraint("(kind = 'device_class') = (device_class IS NOT NULL)", name="device_class_is_named"),
        Index("ix_grants_tenant_id_id", "tenant_id", "id"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    tenant_id: Mapped[Id] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(16))
    pool_id: Mapped[str | None] = mapped_column(String(24), ForeignKey("pools.id", ondelete="CASCADE"), index=True)
    gateway_id: Mapped[str | None] = mapped_column(
        String(24), ForeignKey("gateways.id", ondelete="CASCADE"), index=True
    )
    device_class: Mapped[str | None] = mapped_column(String(192))
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    version: Mapped[int] = mapped_column(default=1)
    created_by: Mapped[Name]
    created_at: Mapped[Instant]
