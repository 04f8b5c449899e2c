"""Rows of tenants, people, keys, quotas and the audit trail."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from appliance.kernel.tables import Base, Bytes, Id, Instant, Json, Name, Sha256, Text, UtcDateTime


class TenantRow(Base):
    __tablename__ = "tenants"

    id: Mapped[Id] = mapped_column(primary_key=True)
    name: Mapped[Name] = mapped_column(unique=True)
    display_name: Mapped[Name]
    state: Mapped[Name]
    limits: Mapped[Json]
    priority: Mapped[str] = mapped_column(String(16), default="normal", server_default="normal")
    trust: Mapped[str] = mapped_column(String(16), default="trusted", server_default="trusted")
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[Instant]


class UserRow(Base):
    __tablename__ = "users"

    id: Mapped[Id] = mapped_column(primary_key=True)
    name: Mapped[Name] = mapped_column(unique=True)
    display_name: Mapped[Name]
    password_hash: Mapped[Text]
    is_platform_admin: Mapped[bool] = mapped_column(default=False)
    must_change_password: Mapped[bool] = mapped_column(default=False)
    failed_logins: Mapped[int] = mapped_column(default=0)
    blocked_until: Mapped[datetime | None] = mapped_column(UtcDateTime())
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[Instant]


class MemberRow(Base):
    """A user's role in one tenant."""

    __tablename__ = "members"

    tenant_id: Mapped[Id] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[Id] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True)
    role: Mapped[Name]
    created_at: Mapped[Instant]


class LoginRow(Base):
    """A console session, found by the hash of its token. It ends at `expires_at`, or `idle_s` after `seen_at`."""

    __tablename__ = "logins"

    token_sha256: Mapped[Sha256] = mapped_column(primary_key=True)
    user_id: Mapped[Id] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    csrf_token: Mapped[Name]
    created_at: Mapped[Instant]
    seen_at: Mapped[Instant]
    idle_s: Mapped[int]
    expires_at: Mapped[Instant] = mapped_column(index=True)


class ApiKeyRow(Base):
    """An API key; `tenant_id` is None for a key of the platform. The secret itself is never stored.

    `version` grows with each change that the gateway must hear of, the revocation included.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        UniqueConstraint("tenant_id", "name"),
        # NULLs are distinct in the constraint above
        Index(
            "uq_api_keys_name_platform",
            "name",
            unique=True,
            postgresql_where=text("tenant_id IS NULL"),
            sqlite_where=text("tenant_id IS NULL"),
        ),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(String(24), ForeignKey("tenants.id", ondelete="CASCADE"))
    name: Mapped[Name]
    prefix: Mapped[Name]
    secret_sha256: Mapped[Sha256] = mapped_column(unique=True)
    scopes: Mapped[Json]
    services: Mapped[Json]
    routes: Mapped[Json]
    networks: Mapped[Json]
    limits: Mapped[Json]
    version: Mapped[int] = mapped_column(default=1, server_default="1")
    created_by: Mapped[Name]
    created_at: Mapped[Instant]
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class QuotaRow(Base):
    """A counter and its limit, in one row whose CHECK the database itself guards (invariant I3)."""

    __tablename__ = "quotas"
    __table_args__ = (
        CheckConstraint("used >= 0", name="not_negative"),
        CheckConstraint("used <= quota_limit", name="within_limit"),
    )

    scope: Mapped[Id] = mapped_column(primary_key=True)
    resource: Mapped[Name] = mapped_column(primary_key=True)
    used: Mapped[Bytes] = mapped_column(default=0)
    quota_limit: Mapped[Bytes]


class AuditRow(Base):
    """One mutation. `sequence`, `previous_hash` and `hash` are filled in by the sealing follower, once; the database
    itself refuses every other change and every deletion (a trigger, which SQLAlchemy does not know of).
    """

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("ix_audit_events_tenant_id_id", "tenant_id", "id"),
        Index(
            "ix_audit_events_unsealed",
            "id",
            postgresql_where=text("sequence IS NULL"),
            sqlite_where=text("sequence IS NULL"),
        ),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    at: Mapped[Instant]
    actor_kind: Mapped[Name]
    actor_id: Mapped[Name]
    actor_name: Mapped[Name]
    tenant_id: Mapped[str | None] = mapped_column(String(24))
    action: Mapped[Name]
    target_kind: Mapped[Name]
    target_id: Mapped[Name]
    request_id: Mapped[str | None] = mapped_column(String(128))
    detail: Mapped[Json]
    sequence: Mapped[int | None] = mapped_column(unique=True)
    previous_hash: Mapped[str | None] = mapped_column(String(64))
    hash: Mapped[str | None] = mapped_column(String(64))
