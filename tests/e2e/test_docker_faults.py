"""A Docker daemon that hangs or dies: unreachable is not gone. And a container that needs more memory than it has."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Final

import pytest
from docker import APIClient

from tests.launchers.daemon import Daemon
from tests.support.appliance import Appliance, Tenant, done, running
from tests.support.crashing import steady_traffic
from tests.support.light import LIGHT_IMAGE
from tests.support.waiting import eventually

pytestmark = pytest.mark.docker

CONVERGES_S: Final = 60.0
SMALL_BYTES: Final = 64 << 20


@pytest.fixture(scope="module")
def daemon(on_docker: Mapping[str, str]) -> Iterator[Daemon]:
    """A daemon of its own with the light image; its containers outlive it, as a production daemon's should."""
    with Daemon.started("--live-restore") as daemon:
        with closing(APIClient(on_docker["APPLIANCE_DOCKER__HOST"], version="auto", timeout=60)) as source:
            image = b"".join(source.get_image(LIGHT_IMAGE))
        with closing(daemon.client()) as target:
            target.load_image(image)  # type: ignore[no-untyped-call]
        yield daemon


@contextmanager
def _serving(daemon: Daemon) -> Iterator[tuple[Appliance, Tenant]]:
    """An appliance under traffic that must not notice, and whose replica is the same one afterwards."""
    environ = {"APPLIANCE_LAUNCHER": "docker", "APPLIANCE_DOCKER__HOST": daemon.host}
    with running(**environ) as appliance:
        tenant = Tenant.create(appliance)
        tenant.publish("steady")
        url = tenant.until("steady", "ready", CONVERGES_S)["url"]
        before = _replicas(tenant, "steady")
        with steady_traffic(url, tenant.known_key(url), "steady") as failures:
            yield appliance, tenant
            tenant.until("late", "ready", CONVERGES_S)
        assert not failures, failures[:5]
        assert _replicas(tenant, "steady") == before
        assert appliance.engines() == 2
        assert not appliance.violations()


def test_a_daemon_that_hangs(daemon: Daemon) -> None:
    with _serving(daemon) as (appliance, tenant):
        daemon.signal(signal.SIGSTOP)
        try:
            tenant.publish("late")
            _is_unreachable(appliance)
            _waits_without_failure(tenant)
        finally:
            daemon.signal(signal.SIGCONT)


def test_a_daemon_that_is_killed(daemon: Daemon) -> None:
    with _serving(daemon) as (appliance, tenant):
        daemon.kill()
        try:
            tenant.publish("late")
            _is_unreachable(appliance)
            _waits_without_failure(tenant)
        finally:
            daemon.start()


def test_a_daemon_and_a_control_plane_that_are_killed(daemon: Daemon) -> None:
    """The control plane starts without its daemon, and adopts what it finds once the daemon is back."""
    with _serving(daemon) as (appliance, tenant):
        daemon.kill()
        try:
            appliance.kill()
            appliance.start()
            tenant.publish("late")
            _is_unreachable(appliance)
            _waits_without_failure(tenant)
        finally:
            daemon.start()


def test_an_engine_that_runs_out_of_memory(daemon: Daemon) -> None:
    environ = {"APPLIANCE_LAUNCHER": "docker", "APPLIANCE_DOCKER__HOST": daemon.host}
    with running(**environ) as appliance:
        with appliance.client() as operator:
            flavor = {"name": "small", "cpus": 1, "memory_bytes": SMALL_BYTES}
            done(operator.post("flavors", json=flavor))
        tenant = Tenant.create(appliance)
        tenant.publish("greedy", flavor="small", args=["--misbehave=eat"])
        reason = tenant.until("greedy", "failed", CONVERGES_S)["reason"]
        assert "ran out of memory; choose a flavor with more" in reason
        done(tenant.client.delete("services/greedy"))
        tenant.until_gone("greedy", CONVERGES_S)
        assert appliance.engines() == 0


def _replicas(tenant: Tenant, name: str) -> list[str]:
    deployment: dict[str, Any] = tenant.service(name)["deployments"][0]
    return [replica["id"] for replica in deployment["current"]]


def _is_unreachable(appliance: Appliance) -> None:
    """The reconciler has noticed, and has gone round several times since."""
    with appliance.client() as operator:

        def rounds() -> int:
            status = done(operator.get("status"))["reconcilers"]
            services = next(one for one in status if one["name"] == "services")
            return int(services["rounds"]) if services["last_result"]["launcher"] == "unreachable" else 0

        first = eventually(rounds, CONVERGES_S, message="the daemon is known to be unreachable")
        eventually(lambda: rounds() >= first + 3, CONVERGES_S, message="three more rounds")


def _waits_without_failure(tenant: Tenant) -> None:
    late = tenant.service("late")
    assert late["state"] == "pending", late
    assert late["deployments"][0]["failures"] == 0
    assert tenant.service("steady")["state"] == "ready"
