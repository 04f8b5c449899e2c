import asyncio
import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from appliance.kernel import leases
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.errors import BadInput, LeaseLost
from appliance.kernel.ids import TenantId
from appliance.kernel.leases import Lease
from appliance.kernel.pagination import PageRequest
from tenants import sealing, trail
from tenants.actors import Actor
from tenants.permissions import Role
from tenants.scope import PLATFORM, TenantScope
from tenants.sealing import ChainReport, SealReconciler
from tenants.tables import AuditRow
from tests.tenants.conftest import NewTenantOf, WorkAs, acting

MEMBERS = [
    "id",
    "at",
    "actor_kind",
    "actor_id",
    "actor_name",
    "tenant_id",
    "action",
    "target_kind",
    "target_id",
    "request_id",
    "detail",
    "sequence",
]


@pytest.fixture
def sealer(database: Database, clock: ManualClock, lease: Lease) -> SealReconciler:
    return SealReconciler(database, clock, lease)


async def _record(work_as: WorkAs, actor: Actor, count: int = 1, **detail: object) -> None:
    for _ in range(count):
        async with work_as(actor) as work:
            work.record("thing.done", "thing", "thing_1", detail=detail)


async def _verify(database: Database) -> ChainReport:
    async with database.read() as session:
        return await sealing.verify_chain(session)


async def test_rows_are_sealed_in_order(database: Database, sealer: SealReconciler, work_as: WorkAs):
    actor = acting(Role.viewer, TenantId("ten_1"))
    await _record(work_as, actor, 3)
    assert (await sealer.reconcile()).rows == 3
    await _record(work_as, actor, 2, note='ü "quoted" \u2028 \U0001f600 \\ \n', nested={"b": [1, None], "a": True})
    sealed = await sealer.reconcile()
    assert (sealed.rows, sealed.last_sequence) == (2, 5)
    assert (await sealer.reconcile()).rows == 0
    report = await _verify(database)
    assert (report.sealed, report.unsealed, report.broken_at) == (5, 0, None)


async def test_an_independent_reader_comes_to_the_same_hashes(
    database: Database, sealer: SealReconciler, work_as: WorkAs
):
    await _record(work_as, acting(Role.viewer, TenantId("ten_1")), 2, note="ü \x7f")
    await sealer.reconcile()
    previous = "0" * 64
    async with database.read() as session:
        for row in await session.scalars(select(AuditRow).order_by(AuditRow.sequence)):
            members = {name: getattr(row, name) for name in MEMBERS}
            members["at"] = f"{row.at:%Y-%m-%dT%H:%M:%S}.{row.at.microsecond:06d}Z"
            body = json.dumps(members, sort_keys=True, separators=(",", ":"))
            assert row.previous_hash == previous
            assert row.hash == hashlib.sha256((previous + body).encode()).hexdigest()
            previous = row.hash


@pytest.mark.parametrize(
    ("statement", "broken_at", "reason"),
    [
        ("UPDATE audit_events SET actor_name = 'eve' WHERE sequence = 2", 2, "was changed"),
        ("UPDATE audit_events SET detail = '{\"x\": 2}' WHERE sequence = 3", 3, "was changed"),
        ("DELETE FROM audit_events WHERE sequence = 2", 2, "is missing"),
        ("UPDATE audit_events SET previous_hash = hash WHERE sequence = 1", 1, "does not continue"),
    ],
)
async def test_tampering_shows(
    database: Database, sealer: SealReconciler, work_as: WorkAs, statement: str, broken_at: int, reason: str
):
    await _record(work_as, acting(Role.viewer, TenantId("ten_1")), 4, x=1)
    await sealer.reconcile()
    async with database.write() as session:
        for permission in _PERMISSIONS[database.engine.dialect.name]:
            await session.execute(text(permission))
        await session.execute(text(statement))
    report = await _verify(database)
    assert report.broken_at == broken_at
    assert reason in (report.reason or "")


_PERMISSIONS = {
    "sqlite": ("DROP TRIGGER audit_events_no_update", "DROP TRIGGER audit_events_no_delete"),
    "postgresql": ("ALTER TABLE audit_events DISABLE TRIGGER USER",),
}
"""How the owner of the tables gets past the triggers, which is what the chain is for."""

_SEALED, _UNSEALED = "id = (SELECT min(id) FROM audit_events)", "sequence IS NULL"


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE audit_events SET actor_name = 'eve' WHERE {_SEALED}",
        f"UPDATE audit_events SET previous_hash = hash WHERE {_SEALED}",
        f"UPDATE audit_events SET sequence = NULL WHERE {_SEALED}",
        f"UPDATE audit_events SET sequence = 9 WHERE {_SEALED}",
        f"DELETE FROM audit_events WHERE {_SEALED}",
        f"UPDATE audit_events SET actor_name = 'eve' WHERE {_UNSEALED}",
        f"UPDATE audit_events SET actor_name = 'eve', sequence = 9 WHERE {_UNSEALED}",
        f"UPDATE audit_events SET detail = '{{\"x\": 2}}', sequence = 9 WHERE {_UNSEALED}",
        f"UPDATE audit_events SET tenant_id = NULL, sequence = 9 WHERE {_UNSEALED}",
        f"DELETE FROM audit_events WHERE {_UNSEALED}",
        "DELETE FROM audit_events",
    ],
)
async def test_the_database_refuses_to_change_the_trail(
    database: Database, sealer: SealReconciler, work_as: WorkAs, statement: str
):
    await _record(work_as, acting(Role.viewer, TenantId("ten_1")), 2, x=1)
    await sealer.reconcile()
    await _record(work_as, acting(Role.viewer, TenantId("ten_1")), 1, x=1)
    with pytest.raises(IntegrityError, match="append-only"):
        await _execute(database, statement)
    await sealer.reconcile()
    report = await _verify(database)
    assert (report.sealed, report.broken_at) == (3, None)


async def test_no_row_is_put_in_the_place_of_another(database: Database, sealer: SealReconciler, work_as: WorkAs):
    """Without the DELETE that its trigger would refuse: TRUNCATE of PostgreSQL, REPLACE of SQLite."""
    await _record(work_as, acting(Role.viewer, TenantId("ten_1")), 2, x=1)
    await sealer.reconcile()
    if database.engine.dialect.name == "postgresql":
        statement = "TRUNCATE audit_events"
    else:
        columns = "at, actor_kind, actor_id, 'eve', tenant_id, action, target_kind, target_id, request_id, detail"
        rest = "sequence, previous_hash, hash"
        statement = f"INSERT OR REPLACE INTO audit_events SELECT id, {columns}, {rest} FROM audit_events"
    with pytest.raises(IntegrityError, match="append-only"):
        await _execute(database, statement)
    assert (await _verify(database)).sealed == 2


async def _execute(database: Database, statement: str) -> None:
    async with database.write() as session:
        await session.execute(text(statement))


async def test_writers_do_not_wait_and_nothing_is_left_out(database: Database, sealer: SealReconciler, work_as: WorkAs):
    actor = acting(Role.viewer, TenantId("ten_1"))
    await asyncio.gather(*(_record(work_as, actor) for _ in range(30)), *(sealer.reconcile() for _ in range(1)))
    await sealer.reconcile()
    report = await _verify(database)
    assert (report.sealed, report.broken_at) == (30, None)


async def test_a_sealer_whose_lease_was_taken_writes_nothing(
    database: Database, sealer: SealReconciler, work_as: WorkAs, clock: ManualClock
):
    await _record(work_as, acting(Role.viewer, TenantId("ten_1")))
    async with database.write() as session:
        await leases.take(session, "control", "another", clock)
    with pytest.raises(LeaseLost):
        await sealer.reconcile()
    assert (await _verify(database)).unsealed == 1


async def test_lists_are_filtered_and_stay_in_scope(
    work_as: WorkAs, clock: ManualClock, acme: TenantId, new_tenant: NewTenantOf
):
    other = await new_tenant("other")
    await _record(work_as, acting(Role.viewer, acme, "mia"), 2)
    clock.advance(60)
    await _record(work_as, acting(Role.viewer, acme, "ben"))
    await _record(work_as, acting(Role.viewer, other))
    async with work_as(acting(Role.tenant_admin, acme)) as work:

        async def count(**filters: object) -> int:
            wanted = trail.filter_of(**filters)  # type: ignore[arg-type]
            return len((await trail.list_events(work, wanted, PageRequest())).items)

        assert await count() == 4  # the tenant's creation is told to the tenant
        assert await count(actor="mia") == await count(actor="usr_mia") == 2
        assert await count(action="thing.done") == await count(target="thing_1") == 3
        assert await count(since=clock.now()) == 1
        assert await count(until=clock.now()) == 3
        with pytest.raises(BadInput, match="since needs a time zone"):
            await count(since=datetime(2026, 1, 1))  # noqa: DTZ001


async def test_the_export_has_every_event_in_order(
    database: Database, sealer: SealReconciler, work_as: WorkAs, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trail, "_BATCH", 2)
    for tenant in ("ten_1", "ten_2"):
        await _record(work_as, acting(Role.viewer, TenantId(tenant)), 5)
    await sealer.reconcile()

    async def lines(scope: TenantScope) -> list[dict[str, object]]:
        chunks = [chunk async for chunk in trail.export(database, scope, trail.filter_of())]
        return [json.loads(line) for line in b"".join(chunks).splitlines()]

    everything = await lines(PLATFORM)
    assert sorted(line["sequence"] for line in everything) == list(range(1, 11))  # type: ignore[type-var]
    assert all(len(str(line["hash"])) == 64 for line in everything)
    own = await lines(TenantScope(TenantId("ten_1")))
    assert {line["tenant_id"] for line in own} == {"ten_1"}
    assert len(own) == 5
    assert [line["id"] for line in own] == sorted(str(line["id"]) for line in own)


def test_instants_are_written_with_all_digits():
    row = AuditRow(id="aud_1", at=datetime(2026, 11, 21, 8, 21, tzinfo=UTC) + timedelta(hours=0), detail={})
    assert b'"at":"2026-11-21T08:21:00.000000Z"' in sealing.canonical(row)
