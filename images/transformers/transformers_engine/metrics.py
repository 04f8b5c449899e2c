"""Prometheus metrics with vLLM's names and meanings, under the prefix `engine:`.

Token counters are the engine's own ledger: prompt tokens count once a prompt was read, generated tokens one by one
as they are chosen, also those of a request that is aborted later.
"""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from .sequence import Delta, FinishReason, Sequence

TTFT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 160.0)
LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)


class Metrics:
    """Updated by the engine thread only, rendered by any."""

    def __init__(self, model_name: str) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._labels = {"model_name": model_name}
        names = tuple(self._labels)
        registry = self._registry
        self._prompt = Counter("engine:prompt_tokens", "Prompt tokens read", names, registry=registry)
        self._generated = Counter("engine:generation_tokens", "Tokens generated", names, registry=registry)
        self._finished = Counter(
            "engine:request_success",
            "Requests by the reason they finished",
            (*names, "finished_reason"),
            registry=registry,
        )
        self._running = Gauge("engine:num_requests_running", "Requests in the batch", names, registry=registry)
        self._waiting = Gauge("engine:num_requests_waiting", "Requests queued", names, registry=registry)
        self._first_token = Histogram(
            "engine:time_to_first_token_seconds",
            "From arrival to the first token",
            names,
            registry=registry,
            buckets=TTFT_BUCKETS,
        )
        self._latency = Histogram(
            "engine:e2e_request_latency_seconds",
            "From arrival to the last token",
            names,
            registry=registry,
            buckets=LATENCY_BUCKETS,
        )
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        """Create every series, so that a scrape before the first request shows zeros and not nothing."""
        plain: tuple[MetricWrapperBase, ...] = (
            self._prompt, self._generated, self._running, self._waiting, self._first_token, self._latency,
        )  # fmt: skip
        for metric in plain:
            metric.labels(**self._labels)
        for reason in FinishReason:
            self._finished.labels(**self._labels, finished_reason=reason.value)

    def observe(self, sequence: Sequence, delta: Delta) -> None:
        """Count what one step brought to one sequence."""
        now = time.monotonic()
        if delta.finish_reason is not FinishReason.ABORT:
            self._generated.labels(**self._labels).inc()
            if delta.completion_tokens == 1:
                self._prompt.labels(**self._labels).inc(len(sequence.prompt))
                self._first_token.labels(**self._labels).observe(now - sequence.arrived)
        if delta.finish_reason is not None:
            self._latency.labels(**self._labels).observe(now - sequence.arrived)
            self._finished.labels(**self._labels, finished_reason=delta.finish_reason.value).inc()

    def set_load(self, *, running: int, waiting: int) -> None:
        self._running.labels(**self._labels).set(running)
        self._waiting.labels(**self._labels).set(waiting)

    def render(self) -> bytes:
        """The text exposition format, version 0.0.4."""
        return generate_latest(self._registry)
