"""Token budgets and what was spent of them."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from appliance.kernel.tables import Base, Bytes, Id, Instant, Name


class BudgetRow(Base):
    """A bound on the tokens of a key, a service or a tenant (`kind`, `subject_id`) in each period.

    `spent` is what was metered in the period that begins at `period_start`. It grows in the transaction that inserts
    the usage, so that a record counts exactly once; a record of an earlier period no longer counts. Subjects lie in
    several domains and services above this one, hence no foreign key: whoever removes a subject removes its budgets.
    """

    __tablename__ = "budgets"
    __table_args__ = (
        UniqueConstraint("subject_id", "period"),
        Index("ix_budgets_tenant_id_id", "tenant_id", "id"),
        CheckConstraint("kind IN ('key', 'service', 'tenant')", name="known_kind"),
        CheckConstraint("period IN ('total', 'day', 'month')", name="known_period"),
        CheckConstraint("tokens >= 0", name="tokens_not_negative"),
        CheckConstraint("spent >= 0", name="spent_not_negative"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    tenant_id: Mapped[Id] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    kind: Mapped[Name]
    subject_id: Mapped[Id]
    subject_name: Mapped[Name]
    period: Mapped[Name]
    tokens: Mapped[Bytes]
    spent: Mapped[Bytes] = mapped_column(default=0)
    period_start: Mapped[Instant]
    version: Mapped[int] = mapped_column(default=1)
    created_by: Mapped[Name]
    created_at: Mapped[Instant]
