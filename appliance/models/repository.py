"""What the operations on models reach besides the database: the store, the limits, and who uses versions.

Made once by the composition root and handed down.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession

from appliance.models.digests import Digests
from appliance.models.store import Store
from appliance.models.users import VersionUsers


class ModelRepository:
    """`upload_bytes` is the largest upload and the largest unpacked archive; `import_roots` the folders of the
    server that models may be imported from.
    """

    def __init__(self, root: Path, *, upload_bytes: int, import_roots: Sequence[Path] = ()) -> None:
        self.store = Store(root)
        self.store.prepare()
        self.upload_bytes = upload_bytes
        self.import_roots = tuple(import_roots)
        self.digests = Digests()
        self._users: list[VersionUsers] = []

    def add_users(self, users: VersionUsers) -> None:
        self._users.append(users)

    async def users_of(self, session: AsyncSession, version_ids: Collection[str]) -> dict[str, list[str]]:
        """The users of each of these versions that has any."""
        found: dict[str, list[str]] = {}
        for users in self._users if version_ids else ():
            for version_id, names in (await users(session, version_ids)).items():
                found.setdefault(version_id, []).extend(names)
        return {version_id: sorted(names) for version_id, names in found.items() if names}
