"""What an engine's log tells of its memory once it is up, compared with the estimate of its deployment.

vLLM (0.32) logs at its start, on devices and on CPUs, `... KV cache size: N tokens, Maximum concurrency for C tokens
per request`, and how large that cache is: `Available KV cache memory: G GiB` of each device, `... set (G/T) GiB for KV
cache` on a CPU, or as it was told by argument. Of the cache follows what one sequence takes; of a whole device of known
size, on which no other program holds memory, its share, the cache and the weights follows the overhead. Only what was
read is compared. The log is the engine's own word, and no secret of anyone; a correction by it is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import Unavailable
from appliance.launchers.errors import ReplicaUnknown
from appliance.models.tables import ModelVersionRow
from appliance.runtimes import arguments
from appliance.runtimes.spec import RuntimeSpec
from appliance.services.corrections import family_of, learn
from appliance.services.machinery import Machinery
from appliance.services.needs import Needs
from appliance.services.tables import DeploymentRow, ReplicaRow
from gpu import leasing
from gpu.estimate.correction import Report
from gpu.snapshot import DeviceView
from gpu.states import WHOLE
from tenants.schemas import Trust
from tenants.tables import TenantRow

_LINES: Final = 5000
_GIB: Final = 1024**3
_CAPACITY: Final = re.compile(r"KV cache size: ([\d,]{1,20}) tokens, Maximum concurrency for ([\d,]{1,20}) tokens")
_DEVICE_CACHE: Final = re.compile(r"Available KV cache memory: (\d{1,9}(?:\.\d{1,9})?) GiB")
_CPU_CACHE: Final = re.compile(r"set \((\d{1,9}(?:\.\d{1,9})?)/\d{1,9}(?:\.\d{1,9})?\) GiB for KV cache")
_GRAPHS: Final = re.compile(r"Graph capturing finished in \d{1,9} secs, took (\d{1,9}(?:\.\d{1,9})?) GiB")
_LEAST_ROUNDED: Final = 1.0
"""GiB: engines round to hundredths, so that less than this would say too little of a sequence."""


class EngineReport(Struct, frozen=True, kw_only=True):
    """As the engine logged it; sizes in GiB, rounded to hundredths by the engine."""

    tokens: int
    context: int
    device_cache: float | None = None
    cpu_cache: float | None = None
    graphs: float | None = None


async def read_report(machinery: Machinery, runtime: RuntimeSpec, replica_id: str) -> EngineReport | None:
    """None where the runtime's engine tells nothing that is understood, or its log cannot be read now."""
    if runtime.sizing.report is None:
        return None
    try:
        lines = await machinery.launcher.logs(replica_id, tail=_LINES)
    except (Unavailable, ReplicaUnknown):
        return None  # a later start reports again
    return parse(lines)


def parse(lines: Iterable[str]) -> EngineReport | None:
    """The first word of each kind: what comes later may be of requests."""
    found: dict[re.Pattern[str], re.Match[str]] = {}
    patterns = (_CAPACITY, _DEVICE_CACHE, _CPU_CACHE, _GRAPHS)
    for line in lines:
        for pattern in patterns:
            if pattern not in found and (match := pattern.search(line)) is not None:
                found[pattern] = match
    if (capacity := found.get(_CAPACITY)) is None:
        return None
    tokens, context = (int(text.replace(",", "") or 0) for text in capacity.groups())
    if not tokens or not context:
        return None

    def size(pattern: re.Pattern[str]) -> float | None:
        return float(found[pattern][1]) if pattern in found else None

    return EngineReport(
        tokens=tokens,
        context=context,
        device_cache=size(_DEVICE_CACHE),
        cpu_cache=size(_CPU_CACHE),
        graphs=size(_GRAPHS),
    )


async def observe(session: AsyncSession, machinery: Machinery, replica_id: str, told: EngineReport) -> None:
    """Compare one start with the deployment's estimate and keep the outcome, within the caller's transaction.

    What an untrusted tenant's engine says corrects nothing: corrections are everybody's, and a model may be made to
    mislead.
    """
    replica = await session.get_one(ReplicaRow, replica_id)
    tenant = await session.get_one(TenantRow, replica.tenant_id)
    if tenant.trust != Trust.trusted:
        return
    deployment = await session.get_one(DeploymentRow, replica.deployment_id)
    if deployment.needs is None:
        return
    needs = msgspec.convert(deployment.needs, Needs)
    version = await session.get_one(ModelVersionRow, deployment.model_version_id)
    family = family_of((version.details or {}).get("architectures") or ())
    if family is None or needs.estimated is None:
        return
    runtime = machinery.catalog.get(deployment.runtime)
    given = arguments.number_in(deployment.args, runtime.sizing.cache_argument)
    report = compare(told, needs, await leasing.devices_of(session, replica_id), given)
    if report != Report():
        await learn(session, machinery.clock, deployment.runtime, family, needs.estimated, report)


def compare(told: EngineReport, needs: Needs, devices: Sequence[DeviceView], given_cache: int | None) -> Report:
    """What the report says of one device, where it says enough to be compared."""
    sequence = overhead = None
    if (cache := _cache_bytes(told, given_cache)) is not None and told.context == needs.context:
        sequence = cache * told.context / told.tokens
    alone = not any(device.memory_foreign or lease.share < WHOLE for device in devices for lease in device.leases)
    if devices and alone and given_cache is None and told.device_cache is not None and needs.estimated is not None:
        taken = min(device.memory_bytes for device in devices) * needs.share
        left = taken - told.device_cache * _GIB - needs.estimated.weights_bytes
        overhead = max(0.0, left) + (told.graphs or 0.0) * _GIB
    return Report(sequence_bytes=sequence, overhead_bytes=overhead)


def _cache_bytes(told: EngineReport, given: int | None) -> float | None:
    if given is not None:
        return given
    size: Any = told.device_cache if told.device_cache is not None else told.cpu_cache
    return None if size is None or size < _LEAST_ROUNDED else size * _GIB
