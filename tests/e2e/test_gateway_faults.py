"""A port that a stranger takes at the worst moment, and a supervisor that is killed."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.appliance import Appliance, Tenant, done, running
from tests.support.http import PLAIN
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def appliance() -> Iterator[Appliance]:
    with running() as appliance:
        yield appliance


@pytest.fixture(scope="module")
def tenant(appliance: Appliance) -> Tenant:
    return Tenant.create(appliance)


def test_a_port_that_is_squatted_between_pick_and_bind(appliance: Appliance, tenant: Tenant) -> None:
    """The stranger keeps it, the reason is shown, and the service has it as soon as the stranger is gone."""
    supervisor = eventually(lambda: appliance.pid_of("supervisor"), ignoring=(OSError,))
    os.kill(supervisor, signal.SIGSTOP)
    try:
        created = tenant.publish("squatted")
        stranger = socket.create_server(("127.0.0.1", created["port"]))
    finally:
        os.kill(supervisor, signal.SIGCONT)
    with stranger:
        reason = eventually(lambda: _failed(tenant, created["port"]), message="the failure is shown")
        assert str(created["port"]) in reason
        with socket.create_connection(("127.0.0.1", created["port"]), timeout=5):
            accepted, _ = stranger.accept()
            accepted.close()
    tenant.until("squatted", "ready")
    key = tenant.key("squatted")
    eventually(
        lambda: _answers(created["url"], key, "squatted"), 20, ignoring=(httpx.TransportError,), message="it is bound"
    )
    assert not appliance.violations()


def test_a_port_that_is_taken_is_not_given(appliance: Appliance, tenant: Tenant) -> None:
    """On either family: a service gets the next one."""
    ports = [gateway["free_ports"] for gateway in done(tenant.client.get("gateways"))["items"]]
    first, second, third, *_ = ports[0]
    with socket.create_server(("127.0.0.1", first)), socket.create_server(("", second)):
        assert tenant.publish("next", replicas=0)["port"] == third


def test_a_supervisor_that_is_killed(appliance: Appliance, tenant: Tenant) -> None:
    """Another one takes over; ports that were open are open again, and services answer."""
    tenant.publish("supervised")
    url = tenant.until("supervised", "ready")["url"]
    key = tenant.known_key(url, "supervised")
    before = appliance.pid_of("supervisor")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: appliance.pid_of("supervisor") != before, 20, message="another supervisor runs")
    eventually(
        lambda: _answers(url, key, "supervised"), 20, ignoring=(httpx.TransportError,), message="the service answers"
    )
    eventually(lambda: not appliance.violations(), 20)
    assert sum("plane.supervisor" in line for line in appliance.processes()) == 1


def test_workers_that_are_killed_while_the_control_plane_is_down(appliance: Appliance, tenant: Tenant) -> None:
    """Those that replace them serve the last snapshot, keys included."""
    tenant.publish("orphaned")
    url = tenant.until("orphaned", "ready")["url"]
    key = tenant.known_key(url, "orphaned")
    appliance.kill()
    try:
        before = [appliance.pid_of(f"worker-{number}") for number in range(2)]
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        eventually(
            lambda: not {appliance.pid_of(f"worker-{number}") for number in range(2)} & set(before),
            20,
            message="both workers were replaced",
            ignoring=(OSError,),
        )
        eventually(lambda: _answers(url, key, "orphaned"), 20, ignoring=(httpx.TransportError,))
    finally:
        appliance.start()
    assert not appliance.violations()


def _failed(tenant: Tenant, port: int) -> str:
    gateways: list[dict[str, Any]] = done(tenant.client.get("gateways"))["items"]
    listeners = [listener for gateway in gateways for listener in gateway["listeners"]]
    listener = next(listener for listener in listeners if listener["port"] == port)
    return listener["reason"] or "" if listener["state"] == "failed" else ""


def _answers(url: str, key: str, model: str) -> bool:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    answer = PLAIN.post(f"{url}/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})
    return answer.status_code == httpx.codes.OK
