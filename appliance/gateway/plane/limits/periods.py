"""Budgets' periods: days and months of UTC, and the whole time. They follow the time of day, as people mean them to.

A budget's row has two pairs of words, period and tokens, used in turn: so a step of the clock back over midnight
finds the day before as it was.
"""

from __future__ import annotations

import time
from typing import Final

from appliance.gateway.plane.limits.charge import Changes
from appliance.gateway.plane.limits.layout import KIND, SUMS, Kind, Rows
from appliance.gateway.plane.schemas.limits import Period

_DAY_S: Final = 86_400
KINDS: Final[dict[Period, Kind]] = {
    "total": Kind.BUDGET_TOTAL,
    "day": Kind.BUDGET_DAY,
    "month": Kind.BUDGET_MONTH,
}


def period_at(kind: int, at: float) -> int:
    """The number of the period that Unix time `at` (seconds) is in; never 0."""
    if kind == Kind.BUDGET_DAY:
        return int(at // _DAY_S) + 1
    if kind == Kind.BUDGET_MONTH:
        moment = time.gmtime(at)
        return moment.tm_year * 12 + moment.tm_mon
    return 1


def ends_in_s(kind: int, at: float) -> int | None:
    """Seconds from `at` to the end of its period, rounded up; None if it has none."""
    if kind == Kind.BUDGET_DAY:
        return int(_DAY_S - at % _DAY_S) + 1
    if kind == Kind.BUDGET_MONTH:
        month = period_at(kind, at)
        day = int(at // _DAY_S)
        while period_at(kind, day * _DAY_S) == month:
            day += 1
        return int(day * _DAY_S - at) + 1
    return None


def spent(rows: Rows, period: int) -> int:
    """What all workers counted in that period."""
    word = SUMS + 2 * (period & 1)
    total = 0
    for words, at in rows:
        if words[at + word] == period:
            total += words[at + word + 1]
    return total


def spend(words: memoryview[int], row: int, at: float, tokens: int) -> Changes:
    """The changes that add tokens, in the period of Unix time `at`, to a budget's row of a table."""
    period = period_at(words[row + KIND], at)
    word = row + SUMS + 2 * (period & 1)
    if words[word] == period:
        return [(word + 1, words[word + 1] + tokens)]
    return [(word + 1, tokens), (word, period)]
