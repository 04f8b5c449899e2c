"""The sliding minute and the budgets' periods, against plain arithmetic."""

from calendar import monthrange, timegm
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.gateway.plane.limits import windows
from appliance.gateway.plane.limits.layout import KIND, ROW_WORDS, Kind, Rows
from appliance.gateway.plane.limits.periods import ends_in_s, period_at, spend, spent
from appliance.gateway.plane.limits.tally import Tally
from appliance.gateway.plane.limits.windows import MINUTE_MS, REQUESTS, TOKENS, Usage

usages = st.builds(Usage, st.integers(0, 1000), st.integers(0, 1000), st.integers(0, MINUTE_MS - 1))


@given(usages)
def test_minute_before_counts_by_the_part_that_is_within_sixty_seconds(usage: Usage) -> None:
    part = (MINUTE_MS - usage.elapsed_ms) / MINUTE_MS
    assert usage.used == pytest.approx(usage.current + usage.previous * part, abs=1)
    assert usage.used >= usage.current + usage.previous * part - 1e-9


def after(usage: Usage, wait_ms: int) -> int:
    """What is used when so much time has passed and nothing came."""
    minutes, elapsed = divmod(usage.elapsed_ms + wait_ms, MINUTE_MS)
    current, previous = ((usage.current, usage.previous), (0, usage.current), (0, 0))[min(minutes, 2)]
    return Usage(current, previous, elapsed).used


@given(usages, st.integers(0, 2000))
def test_time_to_wait_is_the_shortest(usage: Usage, room: int) -> None:
    wait_ms = usage.room_in_ms(room)
    assert after(usage, wait_ms) <= room
    assert wait_ms == 0 or after(usage, wait_ms - 1) > room
    assert after(usage, usage.clear_in_ms()) == 0


def empty_rows(count: int) -> Rows:
    return [(memoryview(bytearray(8 * ROW_WORDS)).cast("Q"), 0) for _ in range(count)]


@given(st.lists(st.tuples(st.integers(0, 90_000), st.integers(1, 50), st.integers(0, 2)), max_size=40))
def test_counts_of_several_workers_are_those_of_one(steps: list[tuple[int, int, int]]) -> None:
    rows = empty_rows(3)
    tallies = [Tally(words, at) for words, at in rows]
    at_ms = 17 * MINUTE_MS
    counted: dict[int, int] = {}
    asked: dict[int, int] = {}
    for passed, number, worker in steps:
        at_ms += passed
        minute, elapsed = divmod(at_ms, MINUTE_MS)
        tallies[worker].take(minute, 0)
        tallies[worker].give(minute, number, 0)
        counted[minute] = counted.get(minute, 0) + number
        expected = Usage(counted[minute], counted.get(minute - 1, 0), elapsed)
        assert windows.usage(rows, TOKENS, at_ms) == expected
        asked[minute] = asked.get(minute, 0) + 1
        assert windows.usage(rows, REQUESTS, at_ms) == Usage(asked[minute], asked.get(minute - 1, 0), elapsed)


def test_what_was_counted_before_is_gone_on_with() -> None:
    ((words, at),) = empty_rows(1)
    before = Tally(words, at)
    before.take(7, 100)
    before.give(7, 30, 100)

    after = Tally(words, at)
    after.take(7, 10)

    assert (after.requests, after.tokens, after.held, after.reserved) == (2, 30, 1, 10)
    after.take(8, 5)
    assert (after.requests, after.tokens, after.held, after.reserved) == (1, 0, 2, 15)
    assert windows.usage([(words, at)], REQUESTS, 8 * MINUTE_MS) == Usage(1, 2, 0)


moments = st.floats(0, 4e9, allow_nan=False)


@given(moments)
def test_periods_are_those_of_the_calendar(at: float) -> None:
    date = datetime.fromtimestamp(at, UTC)
    midnight = timegm((date.year, date.month, date.day, 0, 0, 0))
    first = timegm((date.year, date.month, 1, 0, 0, 0))
    days = monthrange(date.year, date.month)[1]
    for kind, begins, lasts in ((Kind.BUDGET_DAY, midnight, 86_400), (Kind.BUDGET_MONTH, first, days * 86_400)):
        period = period_at(kind, at)
        assert period_at(kind, begins) == period == period_at(kind, begins + lasts - 1)
        assert period_at(kind, begins + lasts) == period + 1
        wait = ends_in_s(kind, at)
        assert wait is not None
        assert period_at(kind, at + wait) == period + 1
        assert at + wait - (begins + lasts) <= 1
    assert (period_at(Kind.BUDGET_TOTAL, at), ends_in_s(Kind.BUDGET_TOTAL, at)) == (1, None)


@given(st.sampled_from([Kind.BUDGET_DAY, Kind.BUDGET_MONTH, Kind.BUDGET_TOTAL]), st.data())
def test_spending_counts_in_its_period_and_the_one_before_is_not_lost(kind: Kind, data: st.DataObject) -> None:
    rows = empty_rows(2)
    for words, at in rows:
        words[at + KIND] = kind
    model: dict[int, int] = {}
    moment = 1_700_000_000.0
    for tokens in data.draw(st.lists(st.integers(1, 1000), max_size=20)):
        moment += data.draw(st.integers(0, 40 * 86_400))
        words, at = rows[data.draw(st.integers(0, 1))]
        for index, value in spend(words, at, moment, tokens):
            words[index] = value
        period = period_at(kind, moment)
        model[period] = model.get(period, 0) + tokens
        assert spent(rows, period) == model[period]
        # A step of the clock back over midnight finds the period before as it was, for who has spent since then.
        assert spent(rows, period - 1) == model.get(period - 1, 0) or kind is Kind.BUDGET_TOTAL
