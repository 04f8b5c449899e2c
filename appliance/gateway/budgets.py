"""Token budgets as the snapshot tells them.

What was spent changes with every request, and a shard that changes is written and decoded again by every worker. It is
only a floor for a node that lost its own count, so it is told anew when the rules change, when the budget is used
up, when its period begins again, and otherwise every half minute where it moved by more than a hundredth of the bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.plane.wire import Budget, Period
from appliance.kernel.clock import Clock
from tenants.budget_tables import BudgetRow

REFRESH_S: Final = 30.0
_SHARE_TOLD: Final = 0.01

_QUERY = select(
    BudgetRow.id,
    BudgetRow.subject_id,
    BudgetRow.tokens,
    BudgetRow.period,
    BudgetRow.spent,
    BudgetRow.period_start,
).order_by(BudgetRow.id)

BudgetsBySubject = Mapping[str, list[Budget]]
"""By the id of the key, service or tenant that they bound."""


class PublishedBudgets:
    """Equal answers are the same object from one call to the next, and so is each subject's list."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._fingerprint: tuple[object, ...] | None = None
        self._read_at = 0.0
        self._told: dict[str, Budget] = {}
        self._by_subject: BudgetsBySubject = {}

    async def load(self, session: AsyncSession) -> BudgetsBySubject:
        """All budgets, read again when their rules have changed or half a minute has passed."""
        rules = select(func.count(), func.max(BudgetRow.id), func.sum(BudgetRow.version))
        fingerprint = tuple((await session.execute(rules)).one())
        if fingerprint != self._fingerprint or self._clock.monotonic() - self._read_at >= REFRESH_S:
            self._take((await session.execute(_QUERY)).all())
            self._fingerprint, self._read_at = fingerprint, self._clock.monotonic()
        return self._by_subject

    def _take(self, rows: Iterable[Row[*tuple[Any, ...]]]) -> None:
        fresh: dict[str, Budget] = {}
        by_subject: dict[str, list[Budget]] = defaultdict(list)
        for row in rows:
            fresh[row.id] = _worth_telling(self._told.get(row.id), _budget(row))
            by_subject[row.subject_id].append(fresh[row.id])
        self._told = fresh
        if by_subject != self._by_subject:
            before = self._by_subject
            self._by_subject = {
                subject: old if (old := before.get(subject)) == budgets else budgets
                for subject, budgets in by_subject.items()
            }


def _budget(row: Row[*tuple[Any, ...]]) -> Budget:
    return Budget(
        id=row.id,
        tokens=row.tokens,
        period=cast("Period", row.period),
        spent=row.spent,
        spent_since=row.period_start.timestamp(),
    )


def _worth_telling(told: Budget | None, now: Budget) -> Budget:
    """What was told before, unless the difference matters."""
    if told is None or (told.tokens, told.period, told.spent_since) != (now.tokens, now.period, now.spent_since):
        return now
    if (told.spent >= told.tokens) != (now.spent >= now.tokens):
        return now
    return now if abs(now.spent - told.spent) > _SHARE_TOLD * now.tokens else told
