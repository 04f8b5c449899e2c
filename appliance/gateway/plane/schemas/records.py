"""What workers tell the control plane about requests: usage, latencies and captures, kept in the spool."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

Outcome = Literal["completed", "client_cut", "upstream_cut", "upstream_error", "timed_out", "worker_lost", "refused"]

OUTCOMES: Final[tuple[Outcome, ...]] = (
    "completed",
    "client_cut",
    "upstream_cut",
    "upstream_error",
    "timed_out",
    "worker_lost",
    "refused",
)


class Attempt(Struct, frozen=True):
    """Of which request a record tells, and who served it for whom."""

    record_id: str
    request_id: str
    at: float
    """Unix seconds at which the request's head was complete."""
    tenant_id: str
    key_id: str
    service_id: str
    deployment_id: str


class UsageRecord(Attempt, frozen=True, tag="usage", omit_defaults=True):
    """One attempt of one request. `record_id` is unique for ever; `request_id` is what the client saw (and may
    have chosen itself, so it is not unique).

    `prompt_tokens` and `completion_tokens` are the engine's own counts, unless `estimated`. `tail_tokens` is an
    upper bound of what the engine may have generated beyond them when the answer was cut.

    `tenant_id` is the key's. `inter_token_count` tokens came after the first piece of a stream, `inter_token_ms`
    after it in all: their quotient is the mean time between tokens.
    """

    replica_id: str
    route: str
    model: str
    status: int
    outcome: Outcome
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    tail_tokens: int = 0
    stream: bool = False
    bytes_in: int = 0
    bytes_out: int = 0
    queue_ms: float = 0.0
    ttft_ms: float | None = None
    duration_ms: float = 0.0
    inter_token_count: int = 0
    inter_token_ms: float = 0.0


class Summary(Struct, frozen=True):
    """Of what within `span_s` seconds from `at` (Unix seconds) a record tells."""

    record_id: str
    at: float
    span_s: int
    tenant_id: str


class UsageRollup(Summary, frozen=True, tag="rollup", omit_defaults=True):
    """The sums of many usage records, which it stands for: of one tenant, key, service and model within `span_s`
    seconds from `at` (Unix seconds). `requests` counts them, `failed` those with a status of 400 or more, `cut`
    those without a status, `estimated` those whose tokens the engine did not tell.
    """

    key_id: str
    service_id: str
    model: str
    requests: int
    failed: int = 0
    cut: int = 0
    estimated: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tail_tokens: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    duration_ms: float = 0.0
    queue_ms: float = 0.0


class Durations(Struct, frozen=True, omit_defaults=True):
    """A mergeable histogram: how many durations fell into each bucket (`plane/histograms.py` says which durations
    bucket n holds), and their sum. Equal buckets of any two are added to merge them.
    """

    buckets: dict[int, int] = {}
    sum_s: float = 0.0


class LatencyRecord(Summary, frozen=True, tag="latency", omit_defaults=True):
    """How fast one deployment was, for the requests that ended within `span_s` seconds from `at` (Unix seconds), as
    one worker saw it; records of several workers and times are merged. `tenant_id` owns the service. `failed` are
    requests with a status of 400 or more or without one. `first_token` and `inter_token` are of streams.
    """

    service_id: str
    deployment_id: str
    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    duration: Durations = Durations()
    queue: Durations = Durations()
    first_token: Durations = Durations()
    inter_token: Durations = Durations()


class CaptureRecord(Attempt, frozen=True, tag="capture", omit_defaults=True):
    """A request and its answer. `record_id` is its usage record's. `tenant_id` is the key's, the service's owner may
    be another. `request` and `answer` are JSON texts (a stream as the one answer that it amounts to); one that was
    cut off at the service's bound is not whole, and is then marked so. `is_cut`: the answer did not come to its end.
    """

    route: str
    model: str
    status: int
    outcome: Outcome
    request: str
    answer: str
    stream: bool = False
    is_cut: bool = False
    request_is_short: bool = False
    answer_is_short: bool = False


SpoolRecord = UsageRecord | UsageRollup | LatencyRecord
