"""What a worker counts of its traffic: since its start for Prometheus, by the minute for the control plane.

Everything comes from the requests' final records, but for the time between tokens, which streams observe as they go.
A request adds to the minute in which it ended; `take_minute` adds that to what was before. The number of series is
bounded: whatever comes beyond `MAX_DEPLOYMENTS` or `MAX_TENANTS` is counted together under `other`. What has left the
snapshot is forgotten once it had no request for a whole minute, so that its last counts were told and taken; the
counts of what is still there only grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from appliance.gateway.plane.histograms import Histogram
from appliance.gateway.plane.schemas.records import Durations, LatencyRecord, UsageRecord

MAX_DEPLOYMENTS: Final = 2000
MAX_TENANTS: Final = 2000
_OTHER: Final = "other"
_SPAN_S: Final = 60

Gauge = tuple[str, dict[str, str], float]
"""Name, labels and value."""


class Known(NamedTuple):
    """The ids of what the snapshot names."""

    deployments: AbstractSet[str]
    tenants: AbstractSet[str]


class Latencies:
    """The histograms of one deployment."""

    __slots__ = ("duration", "first_token", "inter_token", "queue")

    def __init__(self) -> None:
        self.duration = Histogram()
        self.queue = Histogram()
        self.first_token = Histogram()
        self.inter_token = Histogram()

    def add(self, other: Latencies) -> None:
        self.duration.merge(other.duration)
        self.queue.merge(other.queue)
        self.first_token.merge(other.first_token)
        self.inter_token.merge(other.inter_token)


class DeploymentMetrics:
    """`minute` is not in `before` yet. `outcomes` counts by status and outcome since the start."""

    __slots__ = ("before", "completion_tokens", "failed", "minute", "outcomes", "prompt_tokens", "requests", "tokens")

    def __init__(self) -> None:
        self.outcomes: dict[tuple[int, str], int] = {}
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.before = Latencies()
        self._begin_minute()

    def _begin_minute(self) -> None:
        self.minute = Latencies()
        self.requests = self.failed = 0
        self.tokens = (self.prompt_tokens, self.completion_tokens)

    def observe(self, record: UsageRecord) -> None:
        how = (record.status, record.outcome)
        self.outcomes[how] = self.outcomes.get(how, 0) + 1
        self.requests += 1
        self.failed += not 0 < record.status < 400
        self.prompt_tokens += record.prompt_tokens
        self.completion_tokens += record.completion_tokens
        minute = self.minute
        minute.duration.observe(record.duration_ms / 1000)
        minute.queue.observe(record.queue_ms / 1000)
        if record.stream and record.ttft_ms is not None:
            minute.first_token.observe(record.ttft_ms / 1000)

    def latencies(self) -> Latencies:
        """Since the start."""
        whole = Latencies()
        whole.add(self.before)
        whole.add(self.minute)
        return whole

    def take_minute(self, ids: tuple[str, str, str], at: float, record_id: str) -> LatencyRecord | None:
        """What came since the last call; None if nothing did."""
        minute = self.minute
        if not self.requests and not minute.inter_token.buckets:
            return None
        prompt, completion = self.tokens
        record = LatencyRecord(
            record_id,
            at,
            _SPAN_S,
            *ids,
            requests=self.requests,
            failed=self.failed,
            prompt_tokens=self.prompt_tokens - prompt,
            completion_tokens=self.completion_tokens - completion,
            duration=_handed_over(minute.duration),
            queue=_handed_over(minute.queue),
            first_token=_handed_over(minute.first_token),
            inter_token=_handed_over(minute.inter_token),
        )
        self.before.add(minute)
        self._begin_minute()
        return record


def _handed_over(histogram: Histogram) -> Durations:
    return Durations(histogram.buckets, histogram.sum)


class Series(NamedTuple):
    """Which deployment: `tenant` owns the service."""

    tenant: str
    service: str
    deployment: str


class Metrics:
    """Of one worker. `gauges` are read when asked, `known` once a minute, `new_id` makes a record's id."""

    def __init__(
        self,
        worker: int,
        gauges: Callable[[], Iterator[Gauge]],
        new_id: Callable[[], str],
        known: Callable[[], Known],
    ) -> None:
        self.worker = worker
        self.gauges = gauges
        self.deployments: dict[Series, DeploymentMetrics] = {}
        self.tenants: dict[str, list[int]] = {}
        """Requests, prompt and completion tokens by the key's tenant."""
        self.refusals: dict[str, int] = {}
        self._new_id = new_id
        self._known = known
        self._minute: int | None = None
        self._requests_before: dict[str, int] = {}
        """Of each tenant, when the minute began."""

    def of(self, tenant: str, service: str, deployment: str) -> DeploymentMetrics:
        found = self.deployments.get((tenant, service, deployment))  # type: ignore[call-overload] # equal to a Series
        return found or self._add(Series(tenant, service, deployment))

    def _add(self, series: Series) -> DeploymentMetrics:
        if len(self.deployments) >= MAX_DEPLOYMENTS:
            series = Series(_OTHER, _OTHER, _OTHER)
        return self.deployments.setdefault(series, DeploymentMetrics())

    def observe(self, record: UsageRecord, owner: str) -> None:
        """`owner` is the service's tenant; the record's is the key's."""
        self.of(owner, record.service_id, record.deployment_id).observe(record)
        tenant = record.tenant_id
        sums = self.tenants.get(tenant)
        if sums is None:
            tenant = tenant if len(self.tenants) < MAX_TENANTS else _OTHER
            sums = self.tenants.setdefault(tenant, [0, 0, 0])
        sums[0] += 1
        sums[1] += record.prompt_tokens
        sums[2] += record.completion_tokens

    def refused(self, code: str) -> None:
        self.refusals[code] = self.refusals.get(code, 0) + 1

    def take_minute(self, now: float) -> list[LatencyRecord]:
        """Once a new minute has begun, what the one before has seen. `now`: Unix seconds."""
        minute = int(now) // _SPAN_S * _SPAN_S
        if minute == self._minute:
            return []
        before, self._minute = self._minute, minute
        if before is None:
            return []
        taken = self._take(before)
        self._forget_departed({(record.tenant_id, record.service_id, record.deployment_id) for record in taken})
        return taken

    def _forget_departed(self, active: AbstractSet[tuple[str, str, str]]) -> None:
        """`active` series had a request in the minute that is over."""
        known = self._known()
        for series in [each for each in self.deployments if each not in active]:
            if series.deployment not in known.deployments and series.deployment != _OTHER:
                del self.deployments[series]
        for tenant in [each for each, sums in self.tenants.items() if sums[0] == self._requests_before.get(each)]:
            if tenant not in known.tenants and tenant != _OTHER:
                del self.tenants[tenant]
        self._requests_before = {tenant: sums[0] for tenant, sums in self.tenants.items()}

    def take_rest(self, now: float) -> list[LatencyRecord]:
        """What was not taken yet: the worker ends."""
        return self._take(int(now) // _SPAN_S * _SPAN_S if self._minute is None else self._minute)

    def _take(self, at: float) -> list[LatencyRecord]:
        taken = [metrics.take_minute(series, at, self._new_id()) for series, metrics in self.deployments.items()]
        return [record for record in taken if record is not None]
