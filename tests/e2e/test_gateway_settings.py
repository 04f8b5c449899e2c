"""What is set through the API holds at the gateway: limits, budgets, shared ports, restrictions of keys, live."""

from __future__ import annotations

import os
import signal
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.support.appliance import Appliance, Tenant, done, running
from tests.support.http import PLAIN
from tests.support.waiting import eventually

LIVE_S = 5.0
"""A change is at the gateway's workers well before."""
PROMPT = {"prompt": "one two three four", "max_tokens": 4}
USED = 8
"""Tokens of the prompt and the answer of the light engine."""


@pytest.fixture(scope="module")
def appliance() -> Iterator[Appliance]:
    with running() as appliance:
        yield appliance


@pytest.fixture(scope="module")
def tenant(appliance: Appliance) -> Tenant:
    tenant = Tenant.create(appliance)
    tenant.publish("chat")
    tenant.until("chat", "ready")
    return tenant


@pytest.fixture(scope="module")
def url(tenant: Tenant) -> str:
    url: str = tenant.service("chat")["url"]
    return url


def ask(url: str, key: str, model: str = "chat", **members: Any) -> httpx.Response:
    body = PROMPT | {"model": model} | members
    return PLAIN.post(f"{url}/completions", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=30)


def asking(url: str, key: str, count: int) -> list[int]:
    return [ask(url, key).status_code for _ in range(count)]


def known_key(tenant: Tenant, url: str, name: str, **members: Any) -> dict[str, Any]:
    """The id and secret of a key that both workers know: the models are asked for, which no limit counts."""
    made = done(tenant.client.post("keys", json={"name": name, **members}))
    headers = {"Authorization": f"Bearer {made['secret']}"}
    eventually(
        lambda: all(PLAIN.get(f"{url}/models", headers=headers).status_code != 401 for _ in range(20)),
        LIVE_S,
        message=f"key {name} is known",
    )
    return {"id": made["key"]["id"], "secret": made["secret"]}


def test_a_keys_rate_holds_over_all_workers_and_changes_live(tenant: Tenant, url: str) -> None:
    key = known_key(tenant, url, "rated", limits={"requests_per_minute": 10})
    told = asking(url, key["secret"], 14)
    assert told.count(200) == 10
    assert told[-4:] == [429] * 4
    refused = ask(url, key["secret"])
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["x-ratelimit-limit-requests"] == "10"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    done(tenant.client.patch(f"keys/{key['id']}", json={"limits": {"requests_per_minute": 100}}))
    eventually(lambda: ask(url, key["secret"]).status_code == 200, LIVE_S, message="the new limit holds")


def test_a_spent_budget_stays_spent_when_processes_are_killed(appliance: Appliance, tenant: Tenant, url: str) -> None:
    key = known_key(tenant, url, "budgeted")
    budget = done(tenant.client.post("budgets", json={"key": key["id"], "tokens": 3 * USED, "period": "day"}))

    served = 0

    def refused() -> bool:
        nonlocal served
        answer = ask(url, key["secret"])
        served += answer.status_code == 200  # some may pass before the gateways know the budget
        return answer.status_code == 429 and answer.json()["error"]["code"] == "insufficient_quota"

    eventually(refused, LIVE_S, message="the budget is spent")
    assert set(asking(url, key["secret"], 6)) == {429}
    appliance.kill()
    appliance.kill_worker(0)
    appliance.kill_worker(1)
    eventually(refused, LIVE_S, ignoring=(httpx.TransportError,), message="spent for the workers after them, too")
    appliance.start()
    assert set(asking(url, key["secret"], 6)) == {429}
    assert served >= 3

    def told() -> dict[str, Any] | None:
        shown: dict[str, Any] = done(tenant.client.get(f"budgets/{budget['id']}"))
        return shown if shown["spent"] == served * USED else None

    shown = eventually(told, 15, message="all that was served before the kill is told, and no more")
    assert shown is not None
    assert shown["spent"] + shown["remaining"] == max(shown["spent"], 3 * USED)


def test_one_port_leads_to_every_service_that_a_key_may_use(appliance: Appliance, tenant: Tenant) -> None:
    with appliance.client() as operator:
        gateway = done(operator.get("gateways"))["items"][0]["id"]
        done(operator.put(f"gateways/{gateway}/shared-listener", json={}))
    tenant.publish("second", listener="shared", served_model="second-model")
    second = tenant.until("second", "ready")
    base = second["url"].removesuffix("/second/v1") + "/v1"
    one = known_key(tenant, base, "one-service", services=[second["id"]])["secret"]
    every = known_key(tenant, base, "every-service")["secret"]
    assert ask(base, every, "second-model").status_code == 200
    assert ask(base, every, "chat").status_code == 200
    assert ask(second["url"], every, "second-model").status_code == 200
    assert models(base, every) == {"chat", "second-model"}
    assert models(base, one) == {"second-model"}
    assert ask(base, one, "chat").status_code == 404
    stranger = Tenant.create(appliance, "stranger", seed=1)
    theirs = known_key(stranger, base, "theirs")["secret"]
    assert models(base, theirs) == set()
    existing, missing = ask(base, theirs, "chat"), ask(base, theirs, "nowh")
    assert existing.status_code == missing.status_code == 404
    assert existing.text.replace("chat", "nowh") == missing.text  # nothing tells what exists


def models(url: str, key: str) -> set[str]:
    listed = done(PLAIN.get(f"{url}/models", headers={"Authorization": f"Bearer {key}"}))
    return {model["id"] for model in listed["data"]}


def test_defaults_change_live(tenant: Tenant, url: str) -> None:
    key = known_key(tenant, url, "defaults")["secret"]
    assert ask(url, key, max_tokens=6).status_code == 200
    before = tenant.service("chat")["deployments"][0]["current"]
    done(tenant.client.patch("services/chat", json={"defaults": {"max_tokens_ceiling": 5}}))
    eventually(lambda: ask(url, key, max_tokens=6).status_code == 400, LIVE_S, message="the ceiling holds")
    assert tenant.service("chat")["deployments"][0]["current"] == before
    done(tenant.client.patch("services/chat", json={"defaults": {}}))
    eventually(lambda: ask(url, key, max_tokens=6).status_code == 200, LIVE_S)


def test_a_key_opens_only_the_routes_and_networks_it_was_made_for(tenant: Tenant, url: str) -> None:
    routed = known_key(tenant, url, "routed", routes=["POST /v1/chat/completions"])["secret"]
    assert ask(url, routed).status_code == 403
    elsewhere = done(tenant.client.post("keys", json={"name": "elsewhere", "networks": ["192.0.2.0/24"]}))["secret"]
    known_key(tenant, url, "later")  # both workers have a snapshot with the key before
    assert ask(url, elsewhere).status_code in (401, 403)


def test_a_revoked_key_is_refused_soon(tenant: Tenant, url: str) -> None:
    key = known_key(tenant, url, "revoked")
    assert ask(url, key["secret"]).status_code == 200
    done(tenant.client.post(f"keys/{key['id']}/revoke"))
    revoked = time.monotonic()
    eventually(lambda: asking(url, key["secret"], 8) == [401] * 8, LIVE_S, message="the key is refused")
    print(f"refused after {time.monotonic() - revoked:.2f} s")  # noqa: T201 - a figure for the log


def test_workers_are_replaced_and_nobody_notices(appliance: Appliance, tenant: Tenant, url: str) -> None:
    """Also while the control plane is away."""
    key = known_key(tenant, url, "rolling")["secret"]
    appliance.kill()
    before = workers(appliance)
    os.kill(appliance.pid_of("supervisor"), signal.SIGHUP)
    asked: list[int] = []

    def replaced() -> bool:
        asked.extend(asking(url, key, 5))
        return not before & workers(appliance)

    eventually(replaced, 60, message="both workers are new")
    asked += asking(url, key, 20)
    assert set(asked) == {200}
    assert len(workers(appliance)) == len(before)
    appliance.start()
    assert not appliance.violations()


def test_ports_speak_https_where_that_is_set() -> None:
    with running(APPLIANCE_GATEWAY__TLS="true") as appliance:
        tenant = Tenant.create(appliance)
        tenant.publish("chat")
        url = tenant.until("chat", "ready")["url"]
        assert url.startswith("https://")
        headers = {"Authorization": f"Bearer {tenant.key()}"}
        trust = ssl.create_default_context(cafile=str(appliance.home / "ca.pem"))
        with httpx.Client(verify=trust, headers=headers) as client:
            eventually(lambda: client.get(f"{url}/models").status_code == 200, LIVE_S)
            answer = client.post(f"{url}/completions", json=PROMPT | {"model": "chat"})
            assert answer.status_code == 200
            tls = answer.extensions["network_stream"].get_extra_info("ssl_object")
            assert tls.version() in ("TLSv1.2", "TLSv1.3")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{url}/models", headers=headers)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url.replace('https', 'http')}/models", headers=headers)


def workers(appliance: Appliance) -> set[int]:
    """The processes of the gateway's workers."""
    found = set()
    for file in (appliance.home / "run").glob("worker-*.pid"):
        with suppress(FileNotFoundError, ValueError):  # it ends, or only begins
            found.add(int(file.read_text()))
    return found
