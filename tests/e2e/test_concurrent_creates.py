"""Limits under a hundred creates at once: what is counted is counted in the creating transaction (I3, I10, I2)."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import httpx
import pytest

from tests.e2e.conftest import POSTGRES, database_environ
from tests.support.appliance import Appliance, Tenant, done, running

AT_ONCE: Final = 100
PLATFORM_LIMIT: Final = 12
TENANT_LIMIT: Final = 10
GATEWAY_PORTS: Final = 16

pytestmark = pytest.mark.alone  # SQLite's writers wait for one another, and are refused after a bounded time

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=["sqlite", POSTGRES])
def appliance(request: pytest.FixtureRequest) -> Iterator[Appliance]:
    with (
        database_environ(request) as environ,
        running(APPLIANCE_LIMITS__SERVICES=str(PLATFORM_LIMIT), **environ) as appliance,
    ):
        yield appliance


@pytest.fixture
def tenant(appliance: Appliance) -> Iterator[Tenant]:
    """A tenant of the test's own; its services are gone after it."""
    tenant = Tenant.create(appliance, f"tenant-{next(_numbers)}")
    yield tenant
    names = [service["name"] for service in done(tenant.client.get("services"))["items"]]
    for name in names:
        done(tenant.client.delete(f"services/{name}"))
    for name in names:
        tenant.until_gone(name)


def test_a_tenants_limit_holds(appliance: Appliance, tenant: Tenant) -> None:
    done(tenant.client.put("quotas/services", json={"limit": TENANT_LIMIT}))
    answers = _create_at_once(appliance, tenant, names=[f"s{number}" for number in range(AT_ONCE)])
    created, refused = _sorted(answers)
    assert (len(created), len(refused)) == (TENANT_LIMIT, AT_ONCE - TENANT_LIMIT)
    for problem in refused:
        assert problem["code"] == "quota-exceeded"
        assert f"the tenant uses {TENANT_LIMIT} of {TENANT_LIMIT} services" in problem["detail"]
        assert "delete some or ask an administrator" in problem["detail"]
    assert _used(tenant) == TENANT_LIMIT
    _all_is_well(appliance, TENANT_LIMIT)


def test_the_platforms_limit_holds(appliance: Appliance, tenant: Tenant) -> None:
    answers = _create_at_once(appliance, tenant, names=[f"s{number}" for number in range(AT_ONCE)])
    created, refused = _sorted(answers)
    assert (len(created), len(refused)) == (PLATFORM_LIMIT, AT_ONCE - PLATFORM_LIMIT)
    for problem in refused:
        assert f"the platform uses {PLATFORM_LIMIT} of {PLATFORM_LIMIT} services" in problem["detail"]
    _all_is_well(appliance, PLATFORM_LIMIT)


def test_one_idempotency_key_has_one_effect(appliance: Appliance, tenant: Tenant) -> None:
    answers = _create_at_once(appliance, tenant, names=["same"] * AT_ONCE, key="the-same-key")
    assert {answer.status_code for answer in answers} == {httpx.codes.CREATED}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    _all_is_well(appliance, 1)


def test_the_ports_of_a_gateway_are_given_once(appliance: Appliance, tenant: Tenant) -> None:
    """The seventeenth service, and all after it, are told the remedy."""
    with appliance.client() as operator:
        done(operator.put("quotas/services", json={"limit": AT_ONCE}))
    answers = _create_at_once(appliance, tenant, names=[f"s{number}" for number in range(2 * GATEWAY_PORTS)])
    created, refused = _sorted(answers)
    assert len(created) == GATEWAY_PORTS
    assert len({service["port"] for service in created}) == GATEWAY_PORTS
    for problem in refused:
        assert problem["code"] == "gateway-full"
        assert "choose another gateway" in problem["detail"]
    _all_is_well(appliance, GATEWAY_PORTS)


def _create_at_once(
    appliance: Appliance, tenant: Tenant, *, names: Sequence[str], key: str | None = None
) -> list[httpx.Response]:
    """All requests at once, each on a connection of its own. Services without replicas: only counts are at stake."""
    trust = ssl.create_default_context(cafile=str(appliance.home / "ca.pem"))
    headers = dict(tenant.client.headers) | ({"Idempotency-Key": key} if key else {})

    async def create(client: httpx.AsyncClient, name: str) -> httpx.Response:
        body = {"name": name, "model": "tiny", "runtime": "light", "replicas": 0, "gateway": "default"}
        return await client.post("services", json=body)

    async def create_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        base = str(tenant.client.base_url)
        async with httpx.AsyncClient(
            base_url=base, headers=headers, verify=trust, limits=limits, timeout=120
        ) as client:
            return await asyncio.gather(*(create(client, name) for name in names))

    return asyncio.run(create_all())


def _sorted(answers: Sequence[httpx.Response]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Bodies of 201 and of 409; any other answer fails the test."""
    counted = Counter(answer.status_code for answer in answers)
    assert set(counted) <= {httpx.codes.CREATED, httpx.codes.CONFLICT}, counted
    created = [answer.json() for answer in answers if answer.status_code == httpx.codes.CREATED]
    return created, [answer.json() for answer in answers if answer.status_code == httpx.codes.CONFLICT]


def _used(tenant: Tenant) -> int:
    quotas: list[dict[str, Any]] = done(tenant.client.get("quotas"))["items"]
    return int(next(quota["used"] for quota in quotas if quota["resource"] == "services"))


def _all_is_well(appliance: Appliance, services: int) -> None:
    """Rows, counters, ports and the audit's hash chain agree, and there are as many services as were answered 201."""
    assert not appliance.violations()
    with appliance.client() as operator:
        assert len(done(operator.get("services", params={"limit": 500}))["items"]) == services
