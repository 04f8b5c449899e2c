"""The figures that are sought, and how they come out of the samples.

A ratio is taken within each round, where both peers met the same machine, and the median of these is told.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.gateway.measuring import Sample

OURS: Final = "appliance"
FOUR: Final = "appliance-4"
Rounds = Sequence[Mapping[str, Sample]]
"""For each round, each peer's figures."""


@dataclass(frozen=True)
class Goal:
    """`value` is None where the run did not measure what it needs."""

    name: str
    bound: float
    at_least: bool
    value: float | None
    unit: str = "x"
    by_cpu: float | None = None
    """Of a ratio of requests/s: what it is by CPU time per request, which other work on the machine distorts less."""

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def median(rounds: Rounds, peer: str, figure: str) -> float | None:
    values = [samples[peer][figure] for samples in rounds if figure in samples.get(peer, {})]
    return statistics.median(values) if values else None


def _paired(
    rounds: Rounds, figure: str, one: str, other: str, combine: Callable[[float, float], float]
) -> float | None:
    values = [
        combine(samples[one][figure], samples[other][figure])
        for samples in rounds
        if figure in samples.get(one, {}) and figure in samples.get(other, {})
    ]
    return statistics.median(values) if values else None


def goals(rounds: Rounds, memory: Mapping[str, Sample]) -> list[Goal]:
    def ratio(figure: str, one: str, other: str) -> float | None:
        return _paired(rounds, figure, one, other, lambda a, b: a / b)

    def faster(name: str, bound: float, other: str, kind: str = "") -> Goal:
        rate, cpu = f"{kind}requests_per_s", f"{kind}cpu_us_per_request"
        return Goal(name, bound, True, ratio(rate, OURS, other), by_cpu=ratio(cpu, other, OURS))

    def added(figure: str) -> float | None:
        return _paired(rounds, figure, OURS, "nginx", lambda a, b: a - b)

    def kib(figure: str) -> float | None:
        size = memory.get(OURS, {}).get(figure)
        return None if size is None else size / 1024

    return [
        faster("requests/s against Envoy, same features", 1.0, "envoy"),
        faster("requests/s against vllm-router", 1.0, "vllm-router"),
        faster("requests/s against nginx, plain proxy", 0.35, "nginx"),
        faster("requests/s against LiteLLM", 100, "litellm"),
        Goal("CPU per streamed chunk against Envoy", 0.8, False, ratio("cpu_us_per_chunk", OURS, "envoy")),
        Goal("latency added to nginx's at 200/s, p50", 0.3, False, added("open_p50_ms"), "ms"),
        Goal("latency added to nginx's at 200/s, p99", 1.5, False, added("open_p99_ms"), "ms"),
        Goal("CPU per request, four workers against one", 1.15, False, ratio("cpu_us_per_request", FOUR, OURS)),
        Goal("resident per idle connection", 12, False, kib("idle_bytes"), "KiB"),
        Goal("resident per open stream", 40, False, kib("stream_bytes"), "KiB"),
        Goal("resident per idle connection, TLS", 64, False, kib("tls_idle_bytes"), "KiB"),
        Goal("resident per open stream, TLS", 96, False, kib("tls_stream_bytes"), "KiB"),
        faster("requests/s against Envoy, both with TLS", 1.0, "envoy", "tls_"),
    ]
