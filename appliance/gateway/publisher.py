"""The snapshot publisher: the manifest that the gateway's workers read equals the database.

`publish` may be called by anyone after a commit and answers with a version that holds the commit: of calls that
arrive while one is being built, all get the next one, since the running one may have read before their commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway import queries
from appliance.gateway.keys import REREAD_S, KeyShards
from appliance.gateway.plane.wire import (
    LISTENERS_SHARD,
    Listener,
    ListenersShard,
    ServiceShard,
    SnapshotWriter,
    TlsFiles,
    service_shard,
)
from appliance.kernel.clock import Clock
from appliance.kernel.crashpoints import reached
from appliance.kernel.leases import Guarded
from appliance.kernel.logging import get_logger

SNAPSHOT: Final = "snapshot"
"""The reconciler's name, for `wake`."""

RouteSource = Callable[[AsyncSession], Awaitable[Mapping[str, ServiceShard]]]
"""The routes of all services by service id; comes from the services' domain, which is above this one."""

log = get_logger(__name__)


class SnapshotStatus(msgspec.Struct, frozen=True):
    version: int
    listeners: int
    services: int
    keys: int


class SnapshotPublisher:
    """`node`: whose listeners are published. `workers`: how many processes the supervisor shall keep."""

    name = SNAPSHOT
    period_s = 5.0

    def __init__(
        self,
        guarded: Guarded,
        writer: SnapshotWriter,
        routes: RouteSource,
        clock: Clock,
        *,
        node: str,
        workers: int,
        tls: TlsFiles | None = None,
    ) -> None:
        self._guarded, self._writer, self._routes, self._clock = guarded, writer, routes, clock
        self._node, self._workers, self._tls = node, workers, tls
        self._keys = KeyShards(clock)
        self._building = asyncio.Lock()
        self._next: asyncio.Task[SnapshotStatus] | None = None
        self._published: Mapping[str, msgspec.Struct] = {}
        self._version = 0
        self._verified_at = 0.0

    @property
    def version(self) -> int:
        """The version last published by this process, 0 if none was."""
        return self._version

    async def reconcile(self) -> SnapshotStatus:
        return await self._join_next()

    async def publish(self) -> int:
        """Publish the database as it is committed now; the version that holds it."""
        return (await self._join_next()).version

    async def _join_next(self) -> SnapshotStatus:
        if self._next is None:
            self._next = asyncio.create_task(self._turn(), name="snapshot")
        # Shielded: a caller that gives up does not take the others' answer with it.
        return await asyncio.shield(self._next)

    async def _turn(self) -> SnapshotStatus:
        async with self._building:
            self._next = None  # nothing was read yet; whoever comes from here on waits for another turn
            return await self._build()

    async def _build(self) -> SnapshotStatus:
        async with self._guarded.read() as session:
            listeners = await self._listeners(session)
            keys = await self._keys.load(session)
            services = await self._routes(session)
        shards: dict[str, msgspec.Struct] = {LISTENERS_SHARD: listeners, **keys}
        shards.update((service_shard(service_id), shard) for service_id, shard in services.items())
        await self._write(shards)
        count = sum(len(shard.keys) for shard in keys.values())
        return SnapshotStatus(self._version, len(listeners.listeners), len(services), count)

    async def _listeners(self, session: AsyncSession) -> ListenersShard:
        rows = await queries.listeners_on(session, self._node)
        return ListenersShard(
            listeners=[
                Listener(row.id, row.gateway_id, host, row.port, service_id=row.service_id, tls=self._tls)
                for row, host in rows
            ],
            workers=self._workers,
        )

    async def _write(self, shards: Mapping[str, msgspec.Struct]) -> None:
        """Hand the shards to the writer, unless they are those of the last time, which it has seen not long ago.

        The writer compares with the files themselves, so that files someone removed come back within a minute.
        """
        if shards == self._published and self._clock.monotonic() - self._verified_at < REREAD_S:
            return
        async with self._guarded.read() as session:
            await self._guarded.lease.guard(session)
        version = await asyncio.to_thread(self._writer.publish, shards)
        self._published, self._verified_at = shards, self._clock.monotonic()
        if version != self._version:
            self._version = version
            reached("snapshot.published")
            log.info("snapshot.published", version=version, shards=len(shards))
