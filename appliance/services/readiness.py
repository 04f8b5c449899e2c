"""From `starting` to `joining` by a real token, and staying ready only while tokens come.

`/health` alone says little: an engine that hangs still answers it. Live traffic that makes the engine's own token
counter grow counts as the probe; only an engine without progress is asked for a token.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import Unavailable
from appliance.launchers.contract import ReplicaState as Process
from appliance.runtimes.catalog import RuntimeSpec
from appliance.services import failing
from appliance.services.engine import Engine, EngineTrouble, ProbeUsage
from appliance.services.machinery import Machinery
from appliance.services.observing import EngineReport, observe, read_report
from appliance.services.phases import PhaseReader
from appliance.services.states import ReplicaState
from appliance.services.tables import DeploymentRow, ReplicaRow, ServiceRow
from appliance.services.transitions import JOINING_DEADLINE, Overtaken, move

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.25
_FAILED_PROBES = 2
"""Probes in a row without a token before a ready replica counts as hung."""


@dataclass(frozen=True, slots=True)
class _Target:
    service_id: str
    served_model: str
    runtime: RuntimeSpec


async def become_ready(machinery: Machinery, replica_id: str) -> None:
    """Wait for health and one token, telling the phases on the way; the round watches exit and deadline."""
    target = await _target(machinery, replica_id)
    phases = PhaseReader(machinery, target.service_id, replica_id)
    pause = _FIRST_PAUSE_S
    engine = _engine(machinery, replica_id)
    while not await engine.is_healthy(target.runtime.health_path):
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_S)
        await phases.poll()
    try:
        usage = await engine.one_token(target.served_model)
    except EngineTrouble as trouble:
        await failing.fail(machinery, replica_id, ReplicaState.starting, f"no first token: {trouble}")
        return
    report = await read_report(machinery, target.runtime, replica_id)
    await _let_join(machinery, replica_id, usage, report)


async def _let_join(machinery: Machinery, replica_id: str, usage: ProbeUsage, report: EngineReport | None) -> None:
    async with machinery.guarded.write() as session:
        await move(
            session,
            machinery.clock,
            replica_id,
            ReplicaState.starting,
            ReplicaState.joining,
            deadline=JOINING_DEADLINE,
        )
        _count(await session.get_one(ReplicaRow, replica_id), usage)
        if report is not None:
            await observe(session, machinery, replica_id, report)


async def stay_ready(machinery: Machinery, replica_id: str) -> None:
    """Probe the replica each period for as long as it is ready."""
    target, engine = await _target(machinery, replica_id), _engine(machinery, replica_id)
    generated: float | None = None
    failures = 0
    while True:
        await asyncio.sleep(machinery.timing.probe_period_s)
        count = await engine.generated_tokens(target.runtime.metrics_path, target.runtime.metrics.generation_tokens)
        if count is not None and generated is not None and count > generated:
            generated, failures = count, 0
            continue
        try:
            usage = await engine.one_token(target.served_model)
        except EngineTrouble as trouble:
            failures += 1
            if failures >= _FAILED_PROBES:
                await _fail(machinery, replica_id, trouble)
                return
            continue
        generated, failures = (count or 0) + usage.completion_tokens, 0
        async with machinery.guarded.write() as session:
            _count(await _still_ready(session, replica_id), usage)


async def _fail(machinery: Machinery, replica_id: str, trouble: EngineTrouble) -> None:
    """An engine that gives no token hangs, unless it has ended and nobody has noticed yet."""
    reason, exit_info = f"the engine hangs: {trouble}", None
    with suppress(Unavailable):
        seen = {each.replica_id: each for each in await machinery.launcher.list()}.get(replica_id)
        if seen is None or seen.state is Process.EXITED:
            exit_info = seen.exit if seen else None
            reason = failing.explain_exit(exit_info)
    await failing.fail(machinery, replica_id, ReplicaState.ready, reason, exit_info=exit_info)


def _engine(machinery: Machinery, replica_id: str) -> Engine:
    return Engine(machinery.run_dir(replica_id) / "engine.sock", timeout_s=machinery.timing.probe_s)


async def _target(machinery: Machinery, replica_id: str) -> _Target:
    async with machinery.guarded.read() as session:
        replica = await session.get_one(ReplicaRow, replica_id)
        service = await session.get_one(ServiceRow, replica.service_id)
        deployment = await session.get_one(DeploymentRow, replica.deployment_id)
    return _Target(service.id, service.served_model, machinery.catalog.get(deployment.runtime))


async def _still_ready(session: AsyncSession, replica_id: str) -> ReplicaRow:
    replica = await session.get(ReplicaRow, replica_id)
    if replica is None or replica.state != ReplicaState.ready:
        raise Overtaken(f"{replica_id} is not ready any more")
    return replica


def _count(replica: ReplicaRow, usage: ProbeUsage) -> None:
    """Our own probes are in the engine's counters too; kept so that the ledgers can be compared."""
    replica.probe_prompt_tokens += usage.prompt_tokens
    replica.probe_completion_tokens += usage.completion_tokens
