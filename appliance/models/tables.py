"""Rows of models, their versions, files, imports and uploads.

Invariants kept by the database: a name stands for one model of a tenant (or of the platform) and for one current
version of a model; at most one import of a name runs at a time; no file row without its blob row.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from appliance.kernel.tables import Base, Bytes, Id, Instant, Json, Name, Sha256, Text, UtcDateTime


def _unique_where(name: str, *columns: str, condition: str) -> Index:
    return Index(name, *columns, unique=True, sqlite_where=text(condition), postgresql_where=text(condition))


class ModelRow(Base):
    """`tenant_id` is None for a model that the platform shares with every tenant.

    `task_type` and `framework` were edited by a person; where they are None, what was detected in the default
    version holds. `version` is the counter behind the ETag.
    """

    __tablename__ = "models"
    __table_args__ = (
        UniqueConstraint("tenant_id", "name"),
        _unique_where("uq_models_shared_name", "name", condition="tenant_id IS NULL"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(String(24), ForeignKey("tenants.id", ondelete="CASCADE"))
    name: Mapped[Name]
    description: Mapped[Text]
    task_type: Mapped[str | None] = mapped_column(String(128))
    framework: Mapped[str | None] = mapped_column(String(128))
    detected_task_type: Mapped[str | None] = mapped_column(String(128))
    detected_framework: Mapped[str | None] = mapped_column(String(128))
    default_version: Mapped[str | None] = mapped_column(String(128))
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[Instant]


class ModelVersionRow(Base):
    """Content under a name. Replacing a branch makes a new row current; the old one stays while it is in use.

    `counted_bytes` is what it counts against its tenant's storage quota, from the moment its size is known.
    """

    __tablename__ = "model_versions"
    __table_args__ = (
        _unique_where("uq_model_versions_current", "model_id", "name", condition="is_current"),
        _unique_where("uq_model_versions_importing", "model_id", "name", condition="state = 'importing'"),
        CheckConstraint("NOT is_current OR state = 'normal'", name="current_is_normal"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    model_id: Mapped[Id] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), index=True)
    name: Mapped[Name]
    kind: Mapped[Name]
    state: Mapped[Name]
    is_current: Mapped[bool] = mapped_column(default=False)
    total_bytes: Mapped[Bytes] = mapped_column(default=0)
    counted_bytes: Mapped[Bytes] = mapped_column(default=0, server_default="0")
    details: Mapped[Json] = mapped_column("metadata", default=dict)
    error: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)
    verified_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    created_at: Mapped[Instant]


class BlobRow(Base):
    """A content on disk, once, however many files have it."""

    __tablename__ = "blobs"

    sha256: Mapped[Sha256] = mapped_column(primary_key=True)
    size: Mapped[Bytes]
    created_at: Mapped[Instant]


class ModelFileRow(Base):
    __tablename__ = "model_files"

    version_id: Mapped[Id] = mapped_column(ForeignKey("model_versions.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(512), primary_key=True)
    sha256: Mapped[Sha256] = mapped_column(ForeignKey("blobs.sha256"), index=True)
    size: Mapped[Bytes]


class ModelImportRow(Base):
    """Work to be done on a version that is `importing`: committed before it begins, gone when it has ended.

    `location` is a folder of the server, an upload's id or a version's id, as `source` says.
    """

    __tablename__ = "model_imports"

    version_id: Mapped[Id] = mapped_column(ForeignKey("model_versions.id", ondelete="CASCADE"), primary_key=True)
    source: Mapped[Name]
    location: Mapped[Text]
    phase: Mapped[Name]
    bytes_done: Mapped[Bytes] = mapped_column(default=0)
    bytes_total: Mapped[Bytes] = mapped_column(default=0)
    created_at: Mapped[Instant]


class ModelUploadRow(Base):
    """Files on their way over HTTP. How much of each has arrived is the length of its part on disk."""

    __tablename__ = "model_uploads"

    id: Mapped[Id] = mapped_column(primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(String(24), ForeignKey("tenants.id", ondelete="CASCADE"))
    model_id: Mapped[Id] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), index=True)
    version_id: Mapped[Id] = mapped_column(ForeignKey("model_versions.id", ondelete="CASCADE"), unique=True)
    kind: Mapped[Name]
    state: Mapped[Name]
    created_at: Mapped[Instant]
    expires_at: Mapped[Instant] = mapped_column(index=True)


class ModelUploadFileRow(Base):
    """One file that an upload announced; `number` names its part on disk."""

    __tablename__ = "model_upload_files"
    __table_args__ = (UniqueConstraint("upload_id", "path"),)

    upload_id: Mapped[Id] = mapped_column(ForeignKey("model_uploads.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(String(512))
    size: Mapped[Bytes]
    sha256: Mapped[Sha256]
