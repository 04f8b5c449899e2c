"""Rows of reservations: devices that are kept for a tenant, or for one replica of it, in a window of time.

No two reservations of a device overlap, and a window does not change: triggers of the database refuse both. Tenants and
replicas are other domains' tables, named here by their names alone.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from appliance.kernel.tables import Base, Id, Instant, Name, Text


class ReservationRow(Base):
    """In force from `starts_at` on, before `ends_at`. `replica_id`: for this replica alone, until it has its place."""

    __tablename__ = "reservations"
    __table_args__ = (
        CheckConstraint("starts_at < ends_at", name="begins_before_it_ends"),
        UniqueConstraint("replica_id"),
        Index("ix_reservations_tenant_id_id", "tenant_id", "id"),
        Index("ix_reservations_ends_at", "ends_at"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    tenant_id: Mapped[Id] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    replica_id: Mapped[str | None] = mapped_column(String(24), ForeignKey("replicas.id", ondelete="CASCADE"))
    starts_at: Mapped[Instant]
    ends_at: Mapped[Instant]
    reason: Mapped[Text]
    created_by: Mapped[Name]
    created_at: Mapped[Instant]


class DeviceReservationRow(Base):
    """A device of a reservation."""

    __tablename__ = "device_reservations"

    reservation_id: Mapped[Id] = mapped_column(ForeignKey("reservations.id", ondelete="CASCADE"), primary_key=True)
    device_id: Mapped[Id] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True, index=True)
