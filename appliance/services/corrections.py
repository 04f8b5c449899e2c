"""What is kept of engines' reports, by runtime and family, and read for later estimates."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.services.tables import EstimateCorrectionRow
from gpu.estimate.correction import NONE, Correction, Report, learned
from gpu.estimate.estimate import Estimate


def family_of(architectures: Sequence[str]) -> str | None:
    """What models have in common whose estimates are off alike: the first architecture of config.json."""
    return architectures[0][:128] if architectures else None


async def corrections_of(session: AsyncSession, family: str | None) -> dict[str, Correction]:
    """By runtime, of those whose engines reported of the family."""
    query = select(EstimateCorrectionRow).where(EstimateCorrectionRow.family == family)
    return {row.runtime: _shown(row) for row in await session.scalars(query)}


async def learn(
    session: AsyncSession, clock: Clock, runtime: str, family: str, estimated: Estimate, report: Report
) -> Correction:
    """Keep one more start; within the caller's transaction, which the control lease guards."""
    row = await session.get(EstimateCorrectionRow, (runtime, family))
    kept = learned(NONE if row is None else _shown(row), estimated, report)
    if row is None:
        row = EstimateCorrectionRow(runtime=runtime, family=family)
        session.add(row)
    row.cache, row.cache_starts = kept.cache, kept.cache_starts
    row.overhead, row.overhead_starts = kept.overhead, kept.overhead_starts
    row.updated_at = clock.now()
    await session.flush()
    return kept


def _shown(row: EstimateCorrectionRow) -> Correction:
    return Correction(
        cache=row.cache,
        cache_starts=row.cache_starts,
        overhead=row.overhead,
        overhead_starts=row.overhead_starts,
    )
