"""A database of each release before comes to this one's schema with all that is in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from appliance.app.migrating import config, revisions, upgrade
from appliance.app.schema import metadata
from appliance.kernel.db import create_engine
from tests.support import postgres

NOW: Final = "2026-01-02 03:04:05+00:00"
FIRST: Final[dict[str, dict[str, Any]]] = {
    "tenants": {"id": "ten_1", "name": "acme", "display_name": "Acme", "state": "active", "version": 3},
    "gateways": {
        "id": "gwy_1",
        "name": "default",
        "host": "127.0.0.1",
        "node": "node-1",
        "first_port": 9000,
        "port_count": 16,
        "state": "open",
        "version": 1,
    },
    "services": {
        "id": "svc_1",
        "tenant_id": "ten_1",
        "name": "chat",
        "description": "",
        "served_model": "chat",
        "desired": "running",
        "state": "ready",
        "reason": "",
        "version": 1,
        "updated_at": NOW,
        "state_since": NOW,
    },
    "pools": {"id": "pol_1", "name": "default", "description": "", "version": 1},
    "nodes": {
        "id": "nod_1",
        "name": "node-1",
        "pool_id": "pol_1",
        "state": "ready",
        "cpus": 8,
        "memory_bytes": 1024,
        "memory_claimed": 0,
        "boot_id": "boot",
        "seen_at": NOW,
    },
    "devices": {
        "id": "dev_1",
        "node_id": "nod_1",
        "vendor": "nvidia",
        "model": "L4",
        "uuid": "GPU-1",
        "index": 0,
        "pci_address": "0000:01:00.0",
        "memory_bytes": 1024,
        "state": "healthy",
        "seen_at": NOW,
    },
    "listeners": {
        "id": "lsn_1",
        "gateway_id": "gwy_1",
        "node": "node-1",
        "port": 9000,
        "tenant_id": "ten_1",
        "service_id": "svc_1",
    },
    "api_keys": {
        "id": "key_1",
        "tenant_id": "ten_1",
        "name": "laptop",
        "prefix": "ak_1",
        "secret_sha256": "0" * 64,
        "scopes": '["inference"]',
        "services": "[]",
        "created_by": "usr_1",
    },
}
"""What revision 0001 can hold, table by table, in an order that references permit."""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "sqlite":
            yield f"sqlite+aiosqlite:///{tmp_path}/empty.sqlite"
        else:
            yield stack.enter_context(postgres.database(request.getfixturevalue("postgres_server")))


@pytest.fixture
async def engine(empty_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(empty_url)
    yield engine
    await engine.dispose()


async def _move(engine: AsyncEngine, revision: str) -> None:
    def move(connection: Connection) -> None:
        alembic = config()
        alembic.attributes["connection"] = connection
        (command.downgrade if revision < "0002" and _has_budgets(connection) else command.upgrade)(alembic, revision)

    async with engine.execution_options(writes=True).begin() as connection:
        await connection.run_sync(move)


def _has_budgets(connection: Connection) -> bool:
    return connection.dialect.has_table(connection, "budgets")


async def _fill(engine: AsyncEngine, **changes: Any) -> None:
    """Write as revision 0001's release does, naming its columns alone; `changes` are by column."""
    async with engine.begin() as connection:
        for table, columns in FIRST.items():
            row = columns | {"created_at": NOW} | {name: value for name, value in changes.items() if name in columns}
            if changes:
                row |= {
                    name: f"{value[:-1]}2"
                    for name, value in row.items()
                    if name in ("id", "name", "uuid", "secret_sha256")
                }
            names = ", ".join(f'"{name}"' for name in row)
            values = ", ".join(_literal(value) for value in row.values())
            await connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"))


def _literal(value: object) -> str:
    return str(value) if isinstance(value, int) else f"'{value}'"


async def _rows(engine: AsyncEngine, query: str) -> list[tuple[Any, ...]]:
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(text(query))]


async def test_the_migrations_make_the_tables_that_the_code_names(empty_url: str, engine: AsyncEngine) -> None:
    await upgrade(empty_url)

    def differences(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_what_was_there_stays_and_the_release_before_writes_on(empty_url: str, engine: AsyncEngine) -> None:
    await _move(engine, "0001")
    await _fill(engine)
    await upgrade(empty_url)
    await upgrade(empty_url)
    assert await _rows(engine, "SELECT version_num FROM alembic_version") == [(revisions()[-1],)]
    assert await _rows(engine, "SELECT id, version, limits, priority, trust FROM tenants") == [
        ("ten_1", 3, None, "normal", "trusted")
    ]
    assert await _rows(engine, "SELECT id, version, routes, networks, limits FROM api_keys") == [
        ("key_1", 1, None, None, None)
    ]
    assert await _rows(engine, "SELECT id, affinity, gateway_id FROM services") == [("svc_1", None, None)]
    assert await _rows(engine, "SELECT id, service_id FROM listeners") == [("lsn_1", "svc_1")]
    measured = "SELECT id, simulated, ecc_cleared, memory_used_bytes, gauges, links FROM devices"
    assert await _rows(engine, measured) == [("dev_1", False, 0, None, None, None)]
    assert await _rows(engine, "SELECT id, processor, cordoned, draining FROM nodes") == [("nod_1", None, None, False)]
    assert await _rows(engine, "SELECT id, access FROM pools UNION SELECT id, access FROM gateways ORDER BY id") == [
        ("gwy_1", "public"),
        ("pol_1", "public"),
    ]
    await _fill(engine, first_port=9100, port=9100, tenant_id="ten_2", gateway_id="gwy_2", service_id="svc_2")
    assert await _rows(engine, "SELECT version FROM api_keys WHERE id = 'key_2'") == [(1,)]


async def test_the_new_tables_keep_their_rules(empty_url: str, engine: AsyncEngine) -> None:
    await _move(engine, "0001")
    await _fill(engine)
    await upgrade(empty_url)
    shared = (
        "INSERT INTO listeners (id, gateway_id, node, port, created_at) "
        "VALUES ('lsn_{0}', 'gwy_1', 'node-1', {0}, '{1}')"
    )
    budget = (
        "INSERT INTO budgets (id, tenant_id, kind, subject_id, subject_name, period, tokens, spent, period_start, "
        "version, created_by, created_at) VALUES ('bdg_{0}', 'ten_1', '{1}', 'key_1', 'laptop', '{2}', {3}, 0, '{4}', "
        "1, 'usr_1', '{4}')"
    )
    grant = (
        "INSERT INTO grants (id, tenant_id, kind, pool_id, gateway_id, device_class, version, created_by, created_at) "
        "VALUES ('grt_{0}', 'ten_1', '{1}', {2}, 1, 'usr_1', '{3}')"
    )
    await _write(engine, shared.format(9001, NOW))
    await _write(engine, budget.format(1, "key", "day", 10, NOW))
    await _write(engine, grant.format(1, "pool", "'pol_1', NULL, NULL", NOW))
    await _write(engine, grant.format(2, "device_class", "NULL, NULL, 'nvidia/L4'", NOW))
    for refused in (
        shared.format(9002, NOW),
        budget.format(2, "key", "day", 10, NOW),
        budget.format(2, "pool", "month", 10, NOW),
        budget.format(2, "key", "year", 10, NOW),
        budget.format(2, "key", "month", -1, NOW),
        "UPDATE services SET gateway_id = 'gwy_9'",
        grant.format(3, "pool", "'pol_1', NULL, NULL", NOW),
        grant.format(3, "device_class", "NULL, NULL, 'nvidia/L4'", NOW),
        grant.format(3, "gateway", "NULL, 'gwy_9', NULL", NOW),
        grant.format(3, "gateway", "'pol_1', NULL, NULL", NOW),
        grant.format(3, "gateway", "NULL, 'gwy_1', 'nvidia/L4'", NOW),
        grant.format(3, "flavor", "NULL, NULL, NULL", NOW),
        "UPDATE devices SET pool_id = 'pol_9'",
        "UPDATE devices SET draining = true",
        "UPDATE nodes SET draining = true",
    ):
        with pytest.raises(IntegrityError):
            await _write(engine, refused)
    await _write(engine, "UPDATE services SET gateway_id = 'gwy_1'")


async def test_reservations_of_a_device_do_not_overlap(empty_url: str, engine: AsyncEngine) -> None:
    await _move(engine, "0001")
    await _fill(engine)
    await upgrade(empty_url)
    window = (
        "INSERT INTO reservations (id, tenant_id, starts_at, ends_at, reason, created_by, created_at) "
        "VALUES ('rsv_{}', 'ten_1', '2026-01-0{} 00:00:00+00:00', '2026-01-0{} 00:00:00+00:00', '', 'usr_1', '"
        f"{NOW}')"
    )
    kept = "INSERT INTO device_reservations (reservation_id, device_id) VALUES ('rsv_{}', 'dev_1')"
    for number, (begins, ends) in enumerate([(3, 5), (1, 3), (5, 6), (4, 6), (2, 4), (1, 9)]):
        await _write(engine, window.format(number, begins, ends))
    for touching in (0, 1, 2):
        await _write(engine, kept.format(touching))
    for overlapping in (3, 4, 5):
        with pytest.raises(IntegrityError):
            await _write(engine, kept.format(overlapping))
    for refused in (
        window.format(9, 5, 5),
        kept.format(9),
        "UPDATE reservations SET ends_at = '2026-01-04 00:00:00+00:00' WHERE id = 'rsv_0'",
        "UPDATE device_reservations SET reservation_id = 'rsv_5' WHERE reservation_id = 'rsv_0'",
    ):
        with pytest.raises(IntegrityError):
            await _write(engine, refused)
    await _write(engine, "DELETE FROM reservations WHERE id IN ('rsv_0', 'rsv_1', 'rsv_2')")
    assert await _rows(engine, "SELECT * FROM device_reservations") == []
    await _write(engine, kept.format(5))


async def _write(engine: AsyncEngine, statement: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(statement))


async def test_a_way_back_loses_no_row_of_the_release_before(empty_url: str, engine: AsyncEngine) -> None:
    await _move(engine, "0001")
    await _fill(engine)
    await upgrade(empty_url)
    await _move(engine, "0001")
    for table, columns in FIRST.items():
        assert await _rows(engine, f"SELECT id FROM {table}") == [(columns["id"],)]
    await upgrade(empty_url)


@pytest.mark.postgres
async def test_a_lock_that_is_not_had_fails_the_upgrade(postgres_server: str) -> None:
    """Rather than queue every request behind it: the upgrade gives up, and nothing of it stays."""
    with postgres.database(postgres_server) as url:
        engine = create_engine(url)
        try:
            await _move(engine, "0001")
            async with engine.connect() as holder:
                await holder.execute(text("LOCK TABLE tenants IN ACCESS SHARE MODE"))
                with pytest.raises(DBAPIError, match="lock timeout"):
                    await asyncio.wait_for(upgrade(url), 20)
                await holder.rollback()
            assert await _rows(engine, "SELECT version_num FROM alembic_version") == [("0001",)]
            await upgrade(url)
        finally:
            await engine.dispose()


SIZED: Final = (
    (
        "INSERT INTO flavors (id, name, description, devices, cpus, memory_bytes, tmp_bytes, version, created_at) "
        "VALUES ('flv_1', 'gpu', '', 2, 1.5, 7, 0, 1, '{now}')"
    ),
    (
        "INSERT INTO models (id, tenant_id, name, description, version, created_at) "
        "VALUES ('mdl_1', 'ten_1', 'tiny', '', 1, '{now}')"
    ),
    (
        "INSERT INTO model_versions (id, model_id, name, kind, state, is_current, total_bytes, metadata, created_at) "
        "VALUES ('ver_1', 'mdl_1', 'main', 'branch', 'normal', true, 30, '{{\"weight_bytes\": 20}}', '{now}')"
    ),
    (
        "INSERT INTO model_versions (id, model_id, name, kind, state, is_current, total_bytes, metadata, created_at) "
        "VALUES ('ver_2', 'mdl_1', 'next', 'branch', 'importing', false, 0, '{{}}', '{now}')"
    ),
    (
        "INSERT INTO model_uploads (id, tenant_id, model_id, version_id, kind, state, created_at, expires_at) "
        "VALUES ('upl_1', 'ten_1', 'mdl_1', 'ver_2', 'files', 'open', '{now}', '{now}')"
    ),
    "INSERT INTO model_upload_files (upload_id, number, path, size, sha256) VALUES ('upl_1', 0, 'a', 5, '0')",
    (
        "INSERT INTO deployments (id, service_id, tenant_id, name, generation, model_id, model_version_id, model_name, "
        "model_version, runtime, pool_id, flavor_id, flavor_name, devices, replicas, weight, failures) "
        "VALUES ('dep_1', 'svc_1', 'ten_1', 'main', 1, 'mdl_1', 'ver_1', 'tiny', 'main', 'vllm', 'pol_1', 'flv_1', "
        "'gpu', 2, 3, 100, 0)"
    ),
)


async def test_tenants_get_quotas_of_what_they_use(empty_url: str, engine: AsyncEngine) -> None:
    """Of running services, of versions and of open uploads; of devices what the weights take at least."""
    await _move(engine, "0001")
    await _fill(engine)
    await _move(engine, "0004")
    for statement in SIZED:
        await _write(engine, statement.format(now=NOW))
    await upgrade(empty_url)
    least = 10 + 1024**3
    assert dict(await _rows(engine, "SELECT resource, used FROM quotas WHERE scope = 'ten_1'")) == {
        "device_memory_bytes": 3 * 2 * least,
        "cpu_millis": 3 * 1500,
        "memory_bytes": 3 * 7,
        "storage_bytes": 30 + 5,
    }
    assert await _rows(engine, "SELECT device_memory_bytes, cpu_millis, memory_bytes, needs FROM deployments") == [
        (least, 1500, 7, None)
    ]
    placed = "SELECT strategy, node_labels, preemptible, preemptions FROM deployments"
    assert await _rows(engine, placed) == [("pack", None, False, 0)]
    with pytest.raises(IntegrityError):
        await _write(engine, "UPDATE deployments SET strategy = 'best'")
    assert sorted(await _rows(engine, "SELECT id, counted_bytes FROM model_versions")) == [("ver_1", 30), ("ver_2", 5)]
    await _move(engine, "0001")
    assert await _rows(engine, "SELECT resource FROM quotas") == []
