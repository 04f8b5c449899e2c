"""The declarative base, column types and naming of constraints; the tables themselves live in their domains."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, MetaData, String, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """An instant: refuses naive values, always reads back in UTC (SQLite stores no zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Id = Annotated[str, mapped_column(String(24))]
Name = Annotated[str, mapped_column(String(128))]
Text = Annotated[str, mapped_column(String())]
Instant = Annotated[datetime, mapped_column(UtcDateTime())]
Bytes = Annotated[int, mapped_column(BigInteger())]
Json = Annotated[Any, mapped_column(JSON(none_as_null=True), nullable=True)]
Sha256 = Annotated[str, mapped_column(String(64))]


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)


class LeaseRow(Base):
    """Who may write as the control plane; `epoch` grows with each holder (invariant I8)."""

    __tablename__ = "leases"

    name: Mapped[Name] = mapped_column(primary_key=True)
    holder: Mapped[Name]
    epoch: Mapped[int] = mapped_column(Integer())
    taken_at: Mapped[Instant]


class IdempotencyRow(Base):
    """The effect of one POST under its `Idempotency-Key`, written in the same transaction (invariant I10)."""

    __tablename__ = "idempotency_keys"

    scope: Mapped[Name] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_sha256: Mapped[Sha256]
    status: Mapped[int]
    body: Mapped[Text]
    headers: Mapped[Json]
    created_at: Mapped[Instant] = mapped_column(index=True)
