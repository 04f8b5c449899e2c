"""Who uses a version: asked before one is deleted. The domains above register themselves; none is imported here.

The foreign keys of those domains on `model_versions` have the last word; this gives the reason with its names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession


class VersionUsers(Protocol):
    async def __call__(self, session: AsyncSession, version_ids: Collection[str]) -> Mapping[str, Sequence[str]]:
        """What uses which of these versions, as a person reads it (`service chat`); unused ones may be absent."""
        ...
