"""A database that goes away, hangs or is busy: 503 with Retry-After, traffic that does not notice, and recovery."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

import httpx
import pytest

from tests.support import postgres
from tests.support.appliance import Appliance, Tenant, done, prepared, running
from tests.support.crashing import steady_traffic
from tests.support.http import PLAIN
from tests.support.postgres import PostgresServer
from tests.support.processes import Process, ProcessTable
from tests.support.waiting import eventually

PATIENCE_S: Final = 12.0
"""Waiting for the pool, for a connection or for SQLite's lock, with a margin; nobody's request hangs for longer."""


@contextmanager
def _serving(**environ: str) -> Iterator[tuple[Appliance, Tenant]]:
    """An appliance under traffic that must not notice; at the end it can still do its work."""
    with running(**environ) as appliance:
        tenant = Tenant.create(appliance)
        tenant.publish("steady")
        url = tenant.until("steady", "ready")["url"]
        pid = appliance.pid
        with steady_traffic(url, tenant.known_key(url), "steady") as failures:
            yield appliance, tenant
            _works(tenant)
        assert not failures, failures[:5]
        assert not appliance.wait_for_death(0)
        assert appliance.pid_of("control") == pid
        assert not appliance.violations()


def _works(tenant: Tenant) -> None:
    eventually(lambda: tenant.client.get("services").is_success, PATIENCE_S, message="the database answers again")
    tenant.publish("after")
    tenant.until("after", "ready")
    done(tenant.client.delete("services/after"))
    tenant.until_gone("after")


def _is_told_to_retry(answer: httpx.Response) -> bool:
    return answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and int(answer.headers["Retry-After"]) >= 1


@pytest.fixture
def database_url(postgres_of_its_own: PostgresServer) -> str:
    postgres.execute(postgres_of_its_own.url, "CREATE DATABASE appliance")
    return postgres_of_its_own.url.replace("/postgres?", "/appliance?")


@pytest.mark.postgres
def test_postgresql_crashes_and_comes_back(postgres_of_its_own: PostgresServer, database_url: str) -> None:
    with _serving(APPLIANCE_DATABASE_URL=database_url) as (appliance, tenant):
        postgres_of_its_own.stop(signal.SIGQUIT)
        began = time.monotonic()
        read = tenant.client.get("services")
        written = tenant.client.post("keys", json={"name": "lost"})
        assert time.monotonic() - began < 2 * PATIENCE_S
        assert _is_told_to_retry(read), read.text
        assert _is_told_to_retry(written), written.text
        assert PLAIN.get(f"{appliance.metrics_url}/readyz").status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert PLAIN.get(f"{appliance.metrics_url}/healthz").status_code == httpx.codes.OK
        postgres_of_its_own.start()


@pytest.mark.postgres
def test_postgresql_backends_are_killed(postgres_of_its_own: PostgresServer, database_url: str) -> None:
    """Sessions of ours are cut while they are used; nothing but 503 comes of it, and each effect is there or not."""
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'appliance'"
    with _serving(APPLIANCE_DATABASE_URL=database_url) as (_, tenant):
        for number in range(20):
            postgres.execute(postgres_of_its_own.url, cut)
            answer = tenant.client.post("keys", json={"name": f"key-{number}"})
            assert answer.is_success or _is_told_to_retry(answer), answer.text


@pytest.mark.postgres
def test_a_frozen_postmaster(postgres_of_its_own: PostgresServer, database_url: str) -> None:
    """Connections that were there are cut, and new ones are accepted by the kernel and never answered."""
    with _serving(APPLIANCE_DATABASE_URL=database_url) as (_, tenant):
        os.kill(postgres_of_its_own.pid, signal.SIGSTOP)
        try:
            for backend in _backends(postgres_of_its_own):
                os.kill(backend.pid, signal.SIGTERM)
            began = time.monotonic()
            answer = tenant.client.get("services")
            assert _is_told_to_retry(answer), answer.text
            assert time.monotonic() - began < PATIENCE_S
        finally:
            os.kill(postgres_of_its_own.pid, signal.SIGCONT)


def _backends(server: PostgresServer) -> list[Process]:
    children = ProcessTable.snapshot().descendants(server.pid)
    return [process for process in children if "appliance appliance" in process.command_line]


def test_sqlite_is_busy() -> None:
    """Another process holds the write lock: writes wait a bounded time, reads go on."""
    with _serving() as (appliance, tenant):
        with closing(sqlite3.connect(appliance.home / "db" / "appliance.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            written = tenant.client.post("keys", json={"name": "late"})
            waited = time.monotonic() - began
            assert _is_told_to_retry(written), written.text
            assert 1 < waited < PATIENCE_S
            assert tenant.client.get("services").is_success
            other.execute("ROLLBACK")
        done(tenant.client.post("keys", json={"name": "late"}))


def test_a_database_that_is_not_there_is_told_at_the_start() -> None:
    with prepared(APPLIANCE_DATABASE_URL="postgresql://nobody@/none?host=/nonexistent") as appliance:
        ended = appliance.cli("run")
    assert ended.returncode == 1
    assert "error: the database does not answer" in ended.stderr
    assert "Traceback" not in ended.stderr
