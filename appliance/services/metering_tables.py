"""Rows of metered devices. No foreign keys: what was used outlives the service and tenant that it names."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Index
from sqlalchemy.orm import Mapped, mapped_column

from appliance.kernel.tables import Base, Bytes, Id, Instant, Name


class DeviceUsageRow(Base):
    """What a service held of devices of one model within the hour that begins at `hour`, in percent of a device times
    milliseconds: a whole device held for a second adds 100,000. So shares are summed without rounding.
    """

    __tablename__ = "device_usage"
    __table_args__ = (
        CheckConstraint("percent_ms >= 0", name="use_not_negative"),
        Index("ix_device_usage_tenant_id_hour", "tenant_id", "hour"),
        Index("ix_device_usage_hour", "hour"),
    )

    service_id: Mapped[Id] = mapped_column(primary_key=True)
    hour: Mapped[Instant] = mapped_column(primary_key=True)
    vendor: Mapped[Name] = mapped_column(primary_key=True)
    model: Mapped[Name] = mapped_column(primary_key=True)
    tenant_id: Mapped[Id]
    percent_ms: Mapped[Bytes]


class DeviceMeterRow(Base):
    """Up to when a replica's leases are in `device_usage`. None: nothing of them is."""

    __tablename__ = "device_meters"

    replica_id: Mapped[Id] = mapped_column(primary_key=True)
    until: Mapped[Instant]
