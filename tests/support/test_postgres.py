import asyncpg
import pytest

from tests.support.postgres import database, driver_dsn, execute

pytestmark = pytest.mark.postgres


async def _tables(url: str) -> int:
    connection = await asyncpg.connect(driver_dsn(url))
    try:
        return await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
    finally:
        await connection.close()


async def test_each_test_has_an_empty_database(postgres_url: str):
    assert await _tables(postgres_url) == 0


def test_a_copy_has_what_its_template_has(postgres_server: str):
    with database(postgres_server) as template:
        execute(template, "CREATE TABLE replicas (id text PRIMARY KEY)")
        with database(postgres_server, template=template) as copy:
            execute(copy, "INSERT INTO replicas VALUES ('rpl_1')")
        with database(postgres_server, template=template) as copy:
            execute(copy, "INSERT INTO replicas VALUES ('rpl_1')")


async def test_a_database_is_dropped_under_open_sessions(postgres_server: str):
    with database(postgres_server) as url:
        connection = await asyncpg.connect(driver_dsn(url))
    with pytest.raises(asyncpg.PostgresError):
        await connection.execute("SELECT 1")
    await connection.close()
