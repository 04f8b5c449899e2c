"""What is set by the API is what the gateway does, without a restart: shared listeners and services, restrictions of
keys, limits and budgets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.appliance import Appliance, Tenant, done, running
from tests.support.http import PLAIN
from tests.support.waiting import eventually

CHAT = "chat/completions"


class Caller:
    """Asks a service for one token."""

    def __init__(self, url: str, key: str, model: str = "talk") -> None:
        self._url, self._key, self._model = url, key, model

    def ask(self) -> httpx.Response:
        body = {"model": self._model, "messages": [{"role": "user", "content": "a b"}], "max_tokens": 1}
        return PLAIN.post(
            f"{self._url}/{CHAT}", json=body, headers={"Authorization": f"Bearer {self._key}"}, timeout=30
        )

    def outcome(self) -> tuple[int, Any]:
        answer = self.ask()
        return answer.status_code, None if answer.is_success else answer.json()["error"]["code"]

    def until(self, status: int, code: str | None = None) -> None:
        """Until every one of several requests, which meet all workers, is answered so."""
        eventually(lambda: all(self.outcome() == (status, code) for _ in range(6)), 20, message=f"{status} {code}")


@pytest.fixture(scope="module")
def appliance() -> Iterator[Appliance]:
    with running() as appliance:
        yield appliance


@pytest.fixture(scope="module")
def acme(appliance: Appliance) -> Tenant:
    """With the service `talk`, which only the shared listener leads to."""
    tenant = Tenant.create(appliance)
    done(appliance.client().put("gateways/default/shared-listener", json={}))
    tenant.publish("talk", listener="shared")
    tenant.until("talk", "ready")
    return tenant


@pytest.fixture(scope="module")
def url(acme: Tenant) -> str:
    shown: str = acme.service("talk")["url"]
    assert shown.endswith("/talk/v1")
    return shown


def test_a_service_is_reached_by_path_and_by_model(acme: Tenant, url: str) -> None:
    key = acme.key("plain")
    Caller(url, key).until(200)
    Caller(f"{url.removesuffix('/talk/v1')}/v1", key).until(200)
    Caller(f"{url.removesuffix('/talk/v1')}/v1", key, "nothing").until(404, "model_not_found")


def test_restrictions_of_a_key_hold_and_change_live(acme: Tenant, url: str) -> None:
    caller = Caller(url, acme.key("restricted", routes=["POST /v1/completions"]))
    caller.until(403, "route_not_allowed")
    done(acme.client.patch("keys/restricted", json={"routes": [], "networks": ["192.0.2.0/24"]}))
    caller.until(401, "ip_not_authorized")
    done(acme.client.patch("keys/restricted", json={"networks": ["127.0.0.0/8"]}))
    caller.until(200)


def test_a_limit_holds_and_is_lifted_live(acme: Tenant, url: str) -> None:
    caller = Caller(url, acme.key("limited", limits={"requests_per_minute": 1}))
    eventually(lambda: caller.outcome() == (200, None), 20, message="the key is known")
    caller.until(429, "rate_limit_exceeded")
    done(acme.client.patch("keys/limited", json={"limits": {}}))
    caller.until(200)


def test_a_budget_holds_and_is_raised_live(appliance: Appliance, acme: Tenant, url: str) -> None:
    caller = Caller(url, acme.key("spender"))
    caller.until(200)
    budget = done(acme.client.post("budgets", json={"key": "spender", "tokens": 1, "period": "day"}))
    caller.until(429, "insufficient_quota")

    def spent() -> int:
        shown: int = done(acme.client.get(f"budgets/{budget['id']}"))["spent"]
        return shown

    eventually(lambda: spent() > 1, 20, message="the usage is counted")
    done(acme.client.patch(f"budgets/{budget['id']}", json={"tokens": 10**6}))
    caller.until(200)
    assert not appliance.violations()


def test_a_service_serves_exactly_the_tenants_it_is_shared_with(appliance: Appliance, acme: Tenant, url: str) -> None:
    umbrella = Tenant.named(appliance, "umbrella")
    caller = Caller(url.replace("/talk/", "/acme.talk/"), umbrella.key("app"))
    caller.until(404, "service_not_found")
    done(acme.client.put("services/talk/shared-with", json={"tenants": ["umbrella"]}))
    caller.until(200)
    done(acme.client.put("services/talk/shared-with", json={"tenants": []}))
    caller.until(404, "service_not_found")
    assert umbrella.client.get("services/talk").status_code == httpx.codes.NOT_FOUND
