"""When keys and logins were last used, without a write on every request.

Requests that only read run in read transactions, so what they saw is noted in memory and written by a reconciler
every half a minute. A crash loses at most that; a login is judged by the later of the row and the note.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from appliance.kernel.clock import Clock
from appliance.kernel.db import Database
from appliance.kernel.leases import Lease
from tenants.queries import keys, logins

ACTIVITY: Final = "activity"
_LARGEST: Final = 100_000


class Sightings:
    """The latest use of each key (by id) and login (by the hash of its token) since the last write."""

    def __init__(self) -> None:
        self._keys: dict[str, datetime] = {}
        self._logins: dict[str, datetime] = {}

    def saw_key(self, key_id: str, at: datetime) -> None:
        _note(self._keys, key_id, at)

    def saw_login(self, token_sha256: str, at: datetime) -> None:
        _note(self._logins, token_sha256, at)

    def login_seen(self, token_sha256: str) -> datetime | None:
        return self._logins.get(token_sha256)

    def snapshot(self) -> tuple[dict[str, datetime], dict[str, datetime]]:
        return dict(self._keys), dict(self._logins)

    def forget(self, keys: dict[str, datetime], logins: dict[str, datetime]) -> None:
        """Drop what was written, unless it was seen again meanwhile."""
        for notes, written in ((self._keys, keys), (self._logins, logins)):
            for name, at in written.items():
                if notes.get(name) == at:
                    del notes[name]


def _note(notes: dict[str, datetime], name: str, at: datetime) -> None:
    if name in notes or len(notes) < _LARGEST:
        notes[name] = max(at, notes.get(name, at))


class ActivityWritten(msgspec.Struct, frozen=True):
    keys: int
    logins: int


class ActivityReconciler:
    """Writes the sightings and deletes logins that have expired."""

    name = ACTIVITY
    period_s = 30.0

    def __init__(self, database: Database, clock: Clock, lease: Lease, sightings: Sightings) -> None:
        self._database, self._clock, self._lease, self._sightings = database, clock, lease, sightings

    async def reconcile(self) -> ActivityWritten:
        seen_keys, seen_logins = self._sightings.snapshot()
        async with self._database.write() as session:
            await self._lease.guard(session)
            await keys.note_key_uses(session, seen_keys)
            await logins.note_login_uses(session, seen_logins)
            await logins.delete_expired_logins(session, self._clock.now())
        self._sightings.forget(seen_keys, seen_logins)
        return ActivityWritten(len(seen_keys), len(seen_logins))
