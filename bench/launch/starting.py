"""One service's start, from the create request to the first streamed token through the gateway, mark by mark."""

from __future__ import annotations

import itertools
import json
import time
from datetime import datetime
from typing import Any, Final

import httpx

from tests.support.appliance import Appliance, Tenant, done
from tests.support.light import started_at
from tests.support.processes import ProcessTable
from tests.support.waiting import eventually

OURS: Final = ("request", "placing", "launch", "detection", "publishing", "first token")
ENGINES: Final = ("engine's start", "engine's first token")
_POLL_S: Final = 0.003
_DEADLINE_S: Final = 60.0

_numbers = itertools.count(1)


def measure(appliance: Appliance, tenant: Tenant, key: str) -> dict[str, float]:
    """The phases of one start in seconds, in their order; `OURS` and `ENGINES` together are all of it."""
    name = f"bench-{next(_numbers)}"
    began = time.time()
    service = tenant.publish(name)
    answered = time.time()
    first_token = _first_token(service["url"], key, name)
    shown = tenant.until(name, "ready")
    replica = shown["deployments"][0]["current"][0]
    told = _told(tenant, name)
    marks = {
        "request": answered,
        "placing": max(answered, _event(tenant, name, "placed")),
        "launch": _engine_started(appliance, replica["id"]),
        "engine's start": told["listening"],
        "detection": told["asked"],
        "engine's first token": told["answered"],
        "publishing": min(first_token, datetime.fromisoformat(replica["ready_at"]).timestamp()),
        "first token": first_token,
    }
    done(tenant.client.delete(f"services/{name}"))
    tenant.until_gone(name)
    return _phases(began, marks)


def _phases(began: float, marks: dict[str, float]) -> dict[str, float]:
    """From points in time to durations; a mark that came before its predecessor (parallel work) counts as nothing."""
    phases: dict[str, float] = {}
    last = began
    for phase, mark in marks.items():
        phases[phase] = max(mark - last, 0.0)
        last = max(last, mark)
    return phases


def _first_token(url: str, key: str, model: str) -> float:
    """Ask until an answer begins; when its first token came."""
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "stream": True}
    deadline = time.monotonic() + _DEADLINE_S
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
        while time.monotonic() < deadline:
            try:
                with client.stream("POST", f"{url}/chat/completions", json=body) as answer:
                    if answer.status_code == httpx.codes.OK and any("content" in line for line in answer.iter_lines()):
                        return time.time()
            except httpx.TransportError:
                pass
            time.sleep(_POLL_S)
    raise TimeoutError(f"{model} did not answer within {_DEADLINE_S:g} s")


def _event(tenant: Tenant, name: str, phase: str) -> float:
    events: list[dict[str, Any]] = done(tenant.client.get(f"services/{name}/events"))["items"]
    return datetime.fromisoformat(next(event["at"] for event in events if event["phase"] == phase)).timestamp()


def _told(tenant: Tenant, name: str) -> dict[str, float]:
    """What the light engine wrote of itself, in Unix seconds."""

    def lines() -> dict[str, float]:
        found: dict[str, float] = {}
        for line in tenant.client.get(f"services/{name}/logs").text.splitlines():
            if line.startswith("{"):
                found |= json.loads(line)
        return found if {"listening", "asked", "answered"} <= set(found) else {}

    return eventually(lines, message="the engine tells its times")


def _engine_started(appliance: Appliance, replica: str) -> float:
    """When the engine's process, or container, was started; of a process to a hundredth of a second."""
    if appliance.docker_host is not None:
        return started_at(appliance.docker_host, replica)
    engine = next(p for p in ProcessTable.snapshot() if replica in p.command_line and "light_engine" in p.command_line)
    return _boot_time() + engine.started / 100


def _boot_time() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
