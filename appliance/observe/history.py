"""The history as it is asked for: the samples or minutes of a span, brought to equal steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from appliance.kernel.errors import BadInput
from appliance.observe.blocks import Values
from appliance.observe.errors import HistoryUnavailable
from appliance.observe.gauges import Gauge, gauges_of
from appliance.observe.store import DAY_S, KEPT_S, MINUTE_S, HistoryFailed, Kind, Store

DEFAULT_SPAN: Final = timedelta(hours=1)
MOST_POINTS: Final = 2_000
_WANTED_POINTS: Final = 240
_STEPS: Final = (MINUTE_S, 300, 900, 3600, 6 * 3600, DAY_S)


class GaugeHistory(msgspec.Struct, frozen=True):
    """One value for each of the history's times; null: nothing is known of it. `peak` is the largest of what `mean` is
    the mean of, null also where values were added up over several devices.
    """

    name: str
    unit: str
    mean: list[float | None]
    peak: list[float | None]


class History(msgspec.Struct, frozen=True):
    """`times` are the steps' beginnings, `step_s` their length. `resolution_s`: of what they are made, 60 where older
    than a day or asked for by the minute, else as often as devices are probed.
    """

    since: datetime
    until: datetime
    step_s: int
    resolution_s: float
    times: list[datetime]
    gauges: list[GaugeHistory]


class Span(msgspec.Struct, frozen=True):
    """Unix seconds, `since` and `until` whole steps."""

    since: int
    until: int
    step: int
    kind: Kind


def span_of(now: datetime, since: datetime, until: datetime, step: int | None, period_s: float) -> Span:
    """The span that a caller means. `BadInput` where it is none, or of more than 2,000 steps."""
    begin, end = int(since.timestamp()), int(until.timestamp())
    oldest = int(now.timestamp()) - KEPT_S[Kind.raw]
    least = MINUTE_S if begin < oldest else max(round(period_s), 1)
    if step is None:
        steps = [each for each in (least, *_STEPS) if each >= least]
        step = next((each for each in steps if (end - begin) / each <= _WANTED_POINTS), DAY_S)
    if step < least:
        raise BadInput(f"step {step} is below the resolution there, which is {least} s; leave it out to have it chosen")
    begin -= begin % step
    if (end - begin) / step > MOST_POINTS:
        raise BadInput(f"that is more than {MOST_POINTS} steps; ask for a longer step or a shorter time")
    return Span(begin, end, step, Kind.minutes if step >= MINUTE_S else Kind.raw)


def read(store: Store, series: str, span: Span, period_s: float) -> History:
    """Of one series. Blocking; `HistoryUnavailable` if it cannot be read."""
    return _history(series, span, period_s, _steps(store, series, span), with_peaks=True)


def read_sum(store: Store, members: Sequence[str], span: Span, period_s: float) -> History:
    """Of several devices together: their utilisation and temperature on average, all else added up. A step in which
    one of them is not known has what is known of the others. Blocking; as `read`.
    """
    found = [_steps(store, series, span) for series in members]
    added: dict[int, list[tuple[float | None, float | None]]] = {}
    gauges = gauges_of("dev_")
    for at in sorted({at for steps in found for at in steps}):
        rows = [steps[at] for steps in found if at in steps]
        added[at] = []
        for number, gauge in enumerate(gauges):
            known = [mean for mean, _ in (row[number] for row in rows) if mean is not None]
            total = sum(known) if known else None
            is_mean = gauge.unit in ("percent", "celsius")
            added[at].append((total / len(known) if total is not None and is_mean else total, None))
    return _history("dev_", span, period_s, added, with_peaks=False)


def _steps(store: Store, series: str, span: Span) -> dict[int, list[tuple[float | None, float | None]]]:
    """Mean and largest of each gauge, in kept units, by the steps' beginnings."""
    try:
        rows = store.read(series, span.kind, span.since, span.until)
    except HistoryFailed as error:
        raise HistoryUnavailable(
            "the history of devices cannot be read now; try again shortly", cause=str(error)
        ) from error
    grouped: dict[int, list[Values]] = {}
    for at, values in rows.items():
        grouped.setdefault(at - at % span.step, []).append(values)
    join = _of_minutes if span.kind is Kind.minutes else _of_samples
    return {at: join(values, len(gauges_of(series))) for at, values in grouped.items()}


def _of_samples(rows: Sequence[Values], gauges: int) -> list[tuple[float | None, float | None]]:
    steps: list[tuple[float | None, float | None]] = []
    for number in range(gauges):
        known = [value for row in rows if number < len(row) and (value := row[number]) is not None]
        steps.append((sum(known) / len(known), max(known)) if known else (None, None))
    return steps


def _of_minutes(rows: Sequence[Values], gauges: int) -> list[tuple[float | None, float | None]]:
    """Each minute's mean counts as often as it had samples."""
    steps: list[tuple[float | None, float | None]] = []
    for number in range(gauges):
        known = [row[3 * number : 3 * number + 3] for row in rows if 3 * number + 2 < len(row) and row[3 * number]]
        count = sum(each[0] or 0 for each in known)
        total = sum((each[0] or 0) * (each[1] or 0) for each in known)
        largest = max((each[2] for each in known if each[2] is not None), default=None)
        steps.append((total / count, largest) if count else (None, None))
    return steps


def _history(
    series: str,
    span: Span,
    period_s: float,
    steps: Mapping[int, list[tuple[float | None, float | None]]],
    *,
    with_peaks: bool,
) -> History:
    times = sorted(steps)

    def shown(number: int, gauge: Gauge) -> GaugeHistory:
        means = [gauge.shown(steps[at][number][0]) for at in times]
        peaks = [gauge.shown(steps[at][number][1]) if with_peaks else None for at in times]
        return GaugeHistory(gauge.name, gauge.unit, means, peaks)

    return History(
        since=datetime.fromtimestamp(span.since, UTC),
        until=datetime.fromtimestamp(span.until, UTC),
        step_s=span.step,
        resolution_s=MINUTE_S if span.kind is Kind.minutes else period_s,
        times=[datetime.fromtimestamp(at, UTC) for at in times],
        gauges=[shown(number, gauge) for number, gauge in enumerate(gauges_of(series))],
    )
