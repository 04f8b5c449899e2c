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
from appliance.gateway.budgets import BudgetsBySubject, PublishedBudgets
from appliance.gateway.keys import REREAD_S, KeyShards
from appliance.gateway.plane.wire import (
    LISTENERS_SHARD,
    TENANTS_SHARD,
    Listener,
    ListenersShard,
    NodeSettings,
    ServiceShard,
    SnapshotWriter,
    TlsFiles,
    service_shard,
)
from appliance.gateway.tenancy import CacheSalt, TenantShards
from appliance.kernel.clock import Clock
from appliance.kernel.crashpoints import reached
from appliance.kernel.leases import Guarded
from appliance.kernel.logging import get_logger

SNAPSHOT: Final = "snapshot"
"""The reconciler's name, for `wake`."""

RouteSource = Callable[[AsyncSession, BudgetsBySubject], Awaitable[Mapping[str, ServiceShard]]]
"""The routes of all services by service id; comes from the services' domain, which is above this one. What has not
changed is the same object as the last time.
"""

log = get_logger(__name__)


class SnapshotStatus(msgspec.Struct, frozen=True):
    version: int
    listeners: int
    services: int
    keys: int
    tenants: int


class GatewayNode(msgspec.Struct, frozen=True, kw_only=True):
    """The node that is published for: its name, how many processes its supervisor keeps, and what its listeners
    demand of clients (see `Listener`).
    """

    name: str
    workers: int
    max_body_bytes: int = 32 * 1024 * 1024
    head_s: float = 10.0
    idle_s: float = 75.0
    body_grace_s: float = 10.0
    body_min_rate: int = 1024
    tls: TlsFiles | None = None
    settings: NodeSettings = NodeSettings()


class SnapshotPublisher:
    """`salt` is what keeps a tenant's prefix cache apart."""

    name = SNAPSHOT
    period_s = 5.0

    def __init__(
        self,
        guarded: Guarded,
        writer: SnapshotWriter,
        routes: RouteSource,
        clock: Clock,
        *,
        node: GatewayNode,
        salt: CacheSalt,
    ) -> None:
        self._guarded, self._writer, self._routes, self._clock = guarded, writer, routes, clock
        self._node = node
        self._budgets, self._keys, self._tenants = PublishedBudgets(clock), KeyShards(clock), TenantShards(salt)
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
            budgets = await self._budgets.load(session)
            keys = await self._keys.load(session, budgets)
            tenants = await self._tenants.load(session, budgets)
            services = await self._routes(session, budgets)
        shards: dict[str, msgspec.Struct] = {LISTENERS_SHARD: listeners, TENANTS_SHARD: tenants, **keys}
        shards.update((service_shard(service_id), shard) for service_id, shard in services.items())
        await self._write(shards)
        count = sum(len(shard.keys) for shard in keys.values())
        return SnapshotStatus(self._version, len(listeners.listeners), len(services), count, len(tenants.tenants))

    async def _listeners(self, session: AsyncSession) -> ListenersShard:
        node = self._node
        rows = await queries.listeners_on(session, node.name)
        return ListenersShard(
            listeners=[
                Listener(
                    row.id,
                    row.gateway_id,
                    host,
                    row.port,
                    service_id=row.service_id,
                    tls=node.tls,
                    max_body_bytes=node.max_body_bytes,
                    head_s=node.head_s,
                    idle_s=node.idle_s,
                    body_grace_s=node.body_grace_s,
                    body_min_rate=node.body_min_rate,
                )
                for row, host in rows
            ],
            workers=node.workers,
            settings=node.settings,
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
