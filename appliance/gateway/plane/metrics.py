"""Counters and histograms of one worker in Prometheus' text format, asked for on a unix socket.

Each worker answers `GET /metrics` on `run/worker-<n>-metrics.sock`; each sample carries `worker`, so that the
expositions of all workers can be joined (`merge_expositions`). Everything is derived from usage records, at one place.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from appliance.gateway.plane.paths import metrics_path, short_path
from appliance.gateway.plane.schemas import UsageRecord

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_MAX_SCRAPE: Final = 64 * 1024 * 1024
_SCRAPE_S: Final = 2.0

_HELP: Final = {
    "appliance_gateway_requests_total": ("counter", "Requests by how they ended."),
    "appliance_gateway_refused_total": ("counter", "Requests refused before a replica was chosen, by code."),
    "appliance_gateway_prompt_tokens_total": ("counter", "Prompt tokens."),
    "appliance_gateway_completion_tokens_total": ("counter", "Completion tokens."),
    "appliance_gateway_time_to_first_byte_seconds": (
        "histogram",
        "From the request's head to the answer's first byte.",
    ),
    "appliance_gateway_request_duration_seconds": ("histogram", "From the request's head to the answer's end."),
    "appliance_gateway_connections": ("gauge", "Open connections of clients."),
    "appliance_gateway_requests_in_flight": ("gauge", "Requests at the replicas."),
    "appliance_gateway_snapshot_version": ("gauge", "The applied snapshot."),
    "appliance_gateway_spool_pending_records": ("gauge", "Usage records that are not in the spool's file yet."),
}


class Histogram:
    """Fixed buckets, so that histograms of workers and of times can be added."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds


class _ServiceMetrics:
    __slots__ = ("completion_tokens", "duration", "first_byte", "outcomes", "prompt_tokens")

    def __init__(self) -> None:
        self.outcomes: dict[tuple[int, str], int] = {}
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.first_byte = Histogram()
        self.duration = Histogram()


class Metrics:
    """`gauges` are read when asked."""

    def __init__(self, worker: int, gauges: dict[str, Callable[[], float]]) -> None:
        self._worker = worker
        self._gauges = gauges
        self._services: dict[tuple[str, str, str], _ServiceMetrics] = {}
        self._refused: dict[str, int] = {}

    def observe(self, record: UsageRecord) -> None:
        key = (record.tenant_id, record.service_id, record.deployment_id)
        service = self._services.get(key)
        if service is None:
            service = self._services[key] = _ServiceMetrics()
        how = (record.status, record.outcome)
        service.outcomes[how] = service.outcomes.get(how, 0) + 1
        service.prompt_tokens += record.prompt_tokens
        service.completion_tokens += record.completion_tokens
        service.duration.observe(record.duration_ms / 1000)
        if record.ttft_ms is not None:
            service.first_byte.observe(record.ttft_ms / 1000)

    def refused(self, code: str) -> None:
        self._refused[code] = self._refused.get(code, 0) + 1

    def exposition(self) -> str:
        lines: dict[str, list[str]] = {name: [] for name in _HELP}
        for (tenant, service, deployment), metrics in self._services.items():
            labels = f'worker="{self._worker}",tenant="{tenant}",service="{service}",deployment="{deployment}"'
            self._service(lines, labels, metrics)
        for code, count in self._refused.items():
            name = "appliance_gateway_refused_total"
            lines[name].append(f'{name}{{worker="{self._worker}",code="{code}"}} {count}')
        for name, read in self._gauges.items():
            lines[name].append(f'{name}{{worker="{self._worker}"}} {read():g}')
        return _render(lines)

    @staticmethod
    def _service(lines: dict[str, list[str]], labels: str, metrics: _ServiceMetrics) -> None:
        name = "appliance_gateway_requests_total"
        for (status, outcome), count in metrics.outcomes.items():
            lines[name].append(f'{name}{{{labels},status="{status}",outcome="{outcome}"}} {count}')
        for name, value in (
            ("appliance_gateway_prompt_tokens_total", metrics.prompt_tokens),
            ("appliance_gateway_completion_tokens_total", metrics.completion_tokens),
        ):
            lines[name].append(f"{name}{{{labels}}} {value}")
        for name, histogram in (
            ("appliance_gateway_time_to_first_byte_seconds", metrics.first_byte),
            ("appliance_gateway_request_duration_seconds", metrics.duration),
        ):
            lines[name].extend(_histogram(name, labels, histogram))


def _histogram(name: str, labels: str, histogram: Histogram) -> Iterable[str]:
    count = 0
    for bound, inside in zip((*map(str, SECONDS), "+Inf"), histogram.counts, strict=True):
        count += inside
        yield f'{name}_bucket{{{labels},le="{bound}"}} {count}'
    yield f"{name}_sum{{{labels}}} {histogram.total:.6f}"
    yield f"{name}_count{{{labels}}} {count}"


def _render(lines: dict[str, list[str]]) -> str:
    out: list[str] = []
    for name, samples in lines.items():
        if samples:
            kind, text = _HELP[name]
            out += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples]
    return "\n".join(out) + "\n" if out else ""


def merge_expositions(expositions: Iterable[str]) -> str:
    """One exposition of several workers', each family's samples together as the format wants them."""
    lines: dict[str, list[str]] = {name: [] for name in _HELP}
    family = ""
    for exposition in expositions:
        for line in exposition.splitlines():
            if line.startswith("# TYPE "):
                family = line.split(" ")[2]
            elif line and not line.startswith("#") and family in lines:
                lines[family].append(line)
    return _render(lines)


class MetricsProtocol(asyncio.Protocol):
    """Answers one request of a local scraper, whatever its path, and closes."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # a stream's transport has both directions

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - whatever is asked
        if self._transport is None or self._transport.is_closing():
            return
        body = self._metrics.exposition().encode()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
        )
        self._transport.close()


async def scrape(home: Path, index: int) -> str:
    """A worker's exposition. `OSError` (with `TimeoutError`) if it does not answer."""
    async with asyncio.timeout(_SCRAPE_S):
        reader, writer = await asyncio.open_unix_connection(short_path(metrics_path(home, index)))
        try:
            writer.write(b"GET /metrics HTTP/1.1\r\nhost: worker\r\n\r\n")
            content = await reader.read(_MAX_SCRAPE)
            while piece := await reader.read(_MAX_SCRAPE):
                content += piece
        finally:
            writer.close()
    return content.partition(b"\r\n\r\n")[2].decode()
