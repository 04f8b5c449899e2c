"""Engines that are killed or hang: the reason is told, another one takes over, and nothing of the old one stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from tests.support.appliance import Appliance, Tenant, done, running
from tests.support.http import PLAIN
from tests.support.processes import Process, ProcessTable
from tests.support.waiting import eventually

QUICK = {
    "APPLIANCE_ENGINES__READY_PERIOD_S": "0.5",
    "APPLIANCE_ENGINES__READY_PROBE_S": "1",
    "APPLIANCE_ENGINES__STOP_GRACE_S": "1",
}
NAME = f"victim-{os.getpid()}"
"""Engines in containers are found on the machine by what they serve, whoever else runs some."""


@pytest.fixture
def appliance(on_launcher: Mapping[str, str]) -> Iterator[Appliance]:
    with running(**QUICK, **on_launcher) as appliance:
        yield appliance


@pytest.fixture
def url(appliance: Appliance) -> str:
    tenant = Tenant.create(appliance)
    tenant.publish(NAME)
    url: str = tenant.until(NAME, "ready", 60)["url"]
    return url


@pytest.fixture
def tenant(appliance: Appliance, url: str) -> Tenant:
    return Tenant(appliance, "acme")


def test_a_killed_engine_is_replaced(appliance: Appliance, tenant: Tenant, url: str) -> None:
    engine, before = _engine(), _replicas(tenant)
    os.kill(engine.pid, signal.SIGKILL)
    _is_replaced(appliance, tenant, engine, before, "the engine was killed by signal 9")
    _answers(tenant, url)


def test_a_hanging_engine_is_replaced(appliance: Appliance, tenant: Tenant, url: str) -> None:
    """The connection is accepted and /health may be cached somewhere; no token comes."""
    engine, before = _engine(), _replicas(tenant)
    os.kill(engine.pid, signal.SIGSTOP)
    _is_replaced(appliance, tenant, engine, before, "the engine hangs")
    _answers(tenant, url)


def _engine() -> Process:
    """The interpreter itself, not a container's init before it."""
    found = [p for p in ProcessTable.snapshot() if f"--served-model-name={NAME}" in p.arguments and not p.is_zombie]
    (engine,) = [process for process in found if "python" in process.arguments[0]]
    return engine


def _is_replaced(appliance: Appliance, tenant: Tenant, engine: Process, before: list[str], reason: str) -> None:
    eventually(lambda: any(reason in event["message"] for event in _events(tenant)), 30, message=reason)
    eventually(lambda: not engine.is_running(), 30, message="nothing of the old engine is left")
    eventually(lambda: len(_replicas(tenant)) == 1 and _replicas(tenant) != before, 30, message="another is ready")
    assert _engine().pid != engine.pid
    assert appliance.engines() == 1
    assert not appliance.violations()


def _replicas(tenant: Tenant) -> list[str]:
    """Those that are ready. The service's own state follows its replicas a round later."""
    current = tenant.service(NAME)["deployments"][0]["current"]
    return [replica["id"] for replica in current if replica["state"] == "ready"]


def _events(tenant: Tenant) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = done(tenant.client.get(f"services/{NAME}/events"))["items"]
    return events


def _answers(tenant: Tenant, url: str) -> None:
    key = tenant.known_key(url)
    body = {"model": NAME, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    answer = PLAIN.post(f"{url}/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == httpx.codes.OK, answer.text
