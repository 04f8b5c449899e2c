"""Rows of images: which container image a runtime is launched from."""

from __future__ import annotations

from sqlalchemy import String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from appliance.kernel.tables import Base, Id, Instant, Name


class ImageRow(Base):
    """A reference that an administrator registered. `digest` pins its content (`sha256:...`)."""

    __tablename__ = "images"
    __table_args__ = (UniqueConstraint("runtime", "reference"),)

    id: Mapped[Id] = mapped_column(primary_key=True)
    runtime: Mapped[Name]
    launcher: Mapped[Name]
    reference: Mapped[str] = mapped_column(String(512))
    digest: Mapped[str | None] = mapped_column(String(71))
    engine_version: Mapped[Name]
    created_at: Mapped[Instant]
