"""How a control plane ends: in order, at once when asked twice, and alone when another has taken over."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time

import httpx

from appliance.kernel import leases
from appliance.kernel.clock import SystemClock
from appliance.kernel.db import Database
from tests.support.appliance import Appliance, Tenant, prepared, running
from tests.support.waiting import eventually

LONG_S = 120
"""Longer than the test has: what is waited for so long is not waited for."""


def test_asked_twice_it_gives_running_requests_no_more_time() -> None:
    with running(APPLIANCE_GATEWAY__DRAIN_S=str(LONG_S), APPLIANCE_ENGINES__STOP_GRACE_S=str(LONG_S)) as appliance:
        tenant = Tenant.create(appliance)
        tenant.publish("chat", args=["--pause-ms=1000"])
        url = tenant.until("chat", "ready")["url"]
        key = tenant.known_key(url)
        body = {"model": "chat", "stream": True, "max_tokens": LONG_S, "prompt": "one two " * LONG_S}
        with httpx.stream(
            "POST", f"{url}/completions", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=30
        ) as stream:
            assert next(stream.iter_bytes())
            os.kill(appliance.pid, signal.SIGINT)
            eventually(lambda: "stopping the gateway" in appliance.output())
            asked_again = time.monotonic()
            os.kill(appliance.pid, signal.SIGINT)
            assert appliance.wait_for_death(LONG_S / 2)
        assert time.monotonic() - asked_again < LONG_S / 2
        assert "stopping at once" in appliance.output()
        assert appliance.processes() == []
        appliance.start()
        tenant.until("chat", "ready")
        assert not appliance.violations()


def test_who_was_overtaken_ends_and_leaves_the_traffic() -> None:
    with running() as appliance:
        tenant = Tenant.create(appliance)
        tenant.publish("chat")
        tenant.until("chat", "ready")
        supervisor = appliance.pid_of("supervisor")
        asyncio.run(take_over(appliance))
        assert appliance.wait_for_death(30)
        assert "another control plane has taken over" in appliance.output()
        assert (appliance.engines(), appliance.pid_of("supervisor")) == (1, supervisor)
        appliance.start()
        tenant.until("chat", "ready")
        assert not appliance.violations()


async def take_over(appliance: Appliance) -> None:
    database = Database(database_url(appliance))
    async with database.write() as session:
        await leases.take(session, "control", f"{appliance.id} another", SystemClock())
    await database.close()


def database_url(appliance: Appliance) -> str:
    return f"sqlite+aiosqlite:///{appliance.home}/db/appliance.sqlite"


def test_another_installation_may_not_have_the_database() -> None:
    with running() as appliance:
        appliance.kill()
        with prepared(APPLIANCE_DATABASE_URL=database_url(appliance)) as other:
            other.spawn()
            assert other.wait_for_death(30)
            assert f"the database belongs to the installation {appliance.id}" in other.output()
            (other.home / "appliance.id").unlink()
            shutil.copy(appliance.home / "appliance.id", other.home / "appliance.id")
            other.start()  # the same installation, moved
            assert other.stop() == 0
