"""Processes killed at random: gateway workers under load, and everything else while a service is meant to run."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Mapping
from functools import partial
from typing import Final

from tests.campaign.outcome import Outcome
from tests.campaign.stage import Stage
from tests.support import books
from tests.support.appliance import Appliance, Tenant, running
from tests.support.load import Load, plan
from tests.support.processes import ProcessTable
from tests.support.waiting import eventually, eventually_async

_REQUESTS_PER_KILL: Final = 60
_CONCURRENCY: Final = 16
_CONVERGES_S: Final = 45.0
_WORKERS: Final = 2


def worker_kills(stage: Stage, combination: str, *, count: int, seed: int) -> Outcome:
    """`count` kills of gateway workers under load; then the books of the gateway and of the engines must agree."""
    outcome = Outcome("gateway workers killed under load", combination)
    with stage.environ(combination) as environ:
        try:
            outcome.told = asyncio.run(_kill_workers(environ, outcome, count, seed))
        except (AssertionError, OSError) as error:
            outcome.failures.append(str(error)[:600])
    return outcome


async def _kill_workers(environ: Mapping[str, str], outcome: Outcome, count: int, seed: int) -> str:
    chance = random.Random(seed)
    with running(APPLIANCE_ENGINES__READY_PERIOD_S="3600", **environ) as appliance:
        tenant = Tenant.create(appliance)
        tenant.publish("metered", replicas=2, args=["--pause-ms=3"])
        service = tenant.until("metered", "ready", 60)
        eventually(lambda: tenant.service("metered")["ready_replicas"] == 2, 60)
        requests = plan(count * _REQUESTS_PER_KILL, seed)
        key = tenant.known_key(service["url"])
        load = Load(service["url"], key, "metered", requests, concurrency=_CONCURRENCY)

        async def kill() -> None:
            for number in range(count):
                await eventually_async(partial(_has_done, load, number * _REQUESTS_PER_KILL), 120)
                await asyncio.to_thread(_kill_worker, appliance, chance.randrange(_WORKERS))
                outcome.tried += 1

        await asyncio.gather(load.run(), kill())
        broken = sum(asked.broken for asked in requests)
        assert broken <= count * _CONCURRENCY, f"{broken} requests were broken by {count} kills"
        told = await asyncio.to_thread(books.agree, appliance, tenant, service["id"], requests)
        violations = appliance.violations()
        assert not violations, violations
    return f"{broken} requests broken; {told}"


async def _has_done(load: Load, count: int) -> bool:
    return load.done >= count


def _kill_worker(appliance: Appliance, number: int) -> None:
    """Once it runs again after the kill before."""
    eventually(lambda: ProcessTable.snapshot().get(appliance.pid_of(f"worker-{number}")), 20, ignoring=(OSError,))
    appliance.kill_worker(number)


def soak(stage: Stage, combination: str, *, count: int, seed: int) -> Outcome:
    """`count` kills of whatever comes; after each the service has its two replicas again."""
    outcome = Outcome("random kills", combination)
    chance = random.Random(seed)
    victim = ""
    with stage.environ(combination) as environ:
        try:
            with running(APPLIANCE_ENGINES__BACKOFF_CAP_S="1", **environ) as appliance:
                tenant = Tenant.create(appliance)
                tenant.publish("soaked", replicas=2)
                tenant.until("soaked", "ready", 60)
                for _ in range(count):
                    victim = chance.choice(_victims(combination))
                    _strike(appliance, victim, chance)
                    outcome.tried += 1
                    eventually(lambda: _whole(appliance, tenant), _CONVERGES_S, message="two replicas are ready")
                violations = appliance.violations()
                assert not violations, violations
                assert appliance.engines() == 2, f"{appliance.engines()} engines"
        except (AssertionError, OSError) as error:
            outcome.failures.append(f"after {outcome.tried} kills, the last of the {victim}: {error}"[:600])
    return outcome


def _victims(combination: str) -> list[str]:
    """What is inside a container is the daemon's to kill; the shim and its engine are the process launcher's."""
    everywhere = ["control plane", "supervisor", "worker"]
    return everywhere if combination.startswith("docker") else [*everywhere, "shim", "engine"]


def _strike(appliance: Appliance, victim: str, chance: random.Random) -> None:
    match victim:
        case "control plane":
            appliance.kill()
            appliance.start()
        case "supervisor" | "worker":
            name = "supervisor" if victim == "supervisor" else f"worker-{chance.randrange(_WORKERS)}"
            eventually(lambda: ProcessTable.snapshot().get(appliance.pid_of(name)), 20, ignoring=(OSError,))
            os.kill(appliance.pid_of(name), signal.SIGKILL)
        case _:
            folder = f"{appliance.home}/run/e/"
            found = [p for p in ProcessTable.snapshot() if folder in p.command_line and not p.is_zombie]
            wanted = [p.pid for p in found if ("light_engine" in p.command_line) == (victim == "engine")]
            os.kill(chance.choice(sorted(wanted)), signal.SIGKILL)


def _whole(appliance: Appliance, tenant: Tenant) -> bool:
    """Two replicas are ready, by the appliance's word and by what runs."""
    shown = tenant.service("soaked")
    return shown["state"] == "ready" and shown["ready_replicas"] == 2 and appliance.engines() == 2
