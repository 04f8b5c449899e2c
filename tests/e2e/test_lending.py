"""What the platform lends and takes back, on a running appliance: what has begun is finished, what waits says why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.appliance import Appliance, Tenant, done, running
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def appliance() -> Iterator[Appliance]:
    with running() as appliance:
        yield appliance


@pytest.fixture(scope="module")
def tenant(appliance: Appliance) -> Tenant:
    tenant = Tenant.create(appliance)
    operator = appliance.client()
    done(operator.post("grants", json={"tenant": tenant.name, "kind": "pool", "target": "default"}))
    done(operator.patch("pools/default", json={"access": "dedicated"}))
    tenant.publish("chat", args=["--pause-ms=20"])
    tenant.until("chat", "ready")
    return tenant


def waits(tenant: Tenant, why: str) -> None:
    def told() -> bool:
        service: dict[str, Any] = done(tenant.client.get("services/chat"))
        return service["ready_replicas"] == 0 and why in service["reason"]

    eventually(told, 30, message=f"the service waits: {why}")


def streamed(tenant: Tenant, key_name: str, words: int = 100) -> Any:
    """A request that takes a while, as a context."""
    url = tenant.until("chat", "ready")["url"]
    key = tenant.known_key(url, key_name)
    body = {"model": "chat", "stream": True, "max_tokens": words, "prompt": "one two " * words}
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.stream("POST", f"{url}/completions", json=body, headers=headers, timeout=30)


def test_a_grant_that_is_taken_back_lets_what_has_begun_finish(appliance: Appliance, tenant: Tenant) -> None:
    operator = appliance.client()
    (grant,) = done(operator.get("grants"))["items"]
    (leaving,) = done(operator.get(f"grants/{grant['id']}/preview"))["replicas"]
    assert (leaving["service"], leaving["fits"]) == ("chat", False)
    refused = operator.delete(f"grants/{grant['id']}")
    assert refused.json()["code"] == "in-use"
    assert f"{tenant.name}/chat" in refused.json()["detail"]
    with streamed(tenant, "first") as stream:
        chunks = stream.iter_lines()
        assert next(chunks)
        assert operator.delete(f"grants/{grant['id']}", params={"force": "true"}).is_success
        lines = [line for line in chunks if line]
    assert lines[-1] == "data: [DONE]"
    waits(tenant, "pool default is dedicated and not granted to tenant")
    assert appliance.engines() == 0
    assert tenant.client.get("pools/default").status_code == httpx.codes.NOT_FOUND
    done(operator.post("grants", json={"tenant": tenant.name, "kind": "pool", "target": "default"}))
    tenant.until("chat", "ready")
    assert not appliance.violations()


def test_a_node_is_drained_for_maintenance_and_comes_back(appliance: Appliance, tenant: Tenant) -> None:
    operator = appliance.client()
    tenant.until("chat", "ready")
    (node,) = done(operator.get("nodes"))["items"]
    path = f"nodes/{node['name']}"
    (leaving,) = done(operator.get(f"{path}/maintenance-preview"))["replicas"]
    assert leaving["fits"] is False
    with streamed(tenant, "second") as stream:
        chunks = stream.iter_lines()
        assert next(chunks)
        done(operator.post(f"{path}/drain", json={"reason": "new firmware"}))
        lines = [line for line in chunks if line]
    assert lines[-1] == "data: [DONE]"
    waits(tenant, "is cordoned for maintenance")
    eventually(lambda: done(operator.get(path))["replicas"] == 0, message="the node is empty")
    reason = done(tenant.client.get("services/chat"))["reason"]
    assert leaving["why_not"] == reason
    assert "new firmware" not in tenant.client.get("services/chat/events").text
    done(operator.post(f"{path}/uncordon"))
    tenant.until("chat", "ready")
    assert not appliance.violations()
