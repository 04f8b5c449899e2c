"""Prometheus' text format (version 0.0.4) of what workers count.

Every sample names its worker: a worker that is replaced begins at zero, which a rate over each worker's own series
understands and a sum over all of them would not. `sum without (worker) (rate(...))` merges; the histograms' bounds
are the same everywhere, so their merging is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from appliance.gateway.plane.histograms import Histogram, cumulative
from appliance.gateway.plane.metrics import DeploymentMetrics, Metrics, Series

_PREFIX: Final = "appliance_gateway_"
_FAMILIES: Final = {
    _PREFIX + name: (kind, text)
    for name, kind, text in (
        ("requests_total", "counter", "Requests by status and by how they ended."),
        ("refused_total", "counter", "Errors of the gateway's own, by code."),
        ("prompt_tokens_total", "counter", "Prompt tokens."),
        ("completion_tokens_total", "counter", "Completion tokens."),
        ("tenant_requests_total", "counter", "Requests by the tenant whose key was used."),
        ("tenant_prompt_tokens_total", "counter", "Prompt tokens by the tenant whose key was used."),
        ("tenant_completion_tokens_total", "counter", "Completion tokens by the tenant whose key was used."),
        (
            "time_to_first_token_seconds",
            "histogram",
            "Of streams: from the request's head to the answer's first bytes.",
        ),
        ("inter_token_seconds", "histogram", "Of streams of one choice: from one token to the next."),
        ("request_duration_seconds", "histogram", "From the request's head to the answer's end."),
        ("queue_seconds", "histogram", "What a request waited for a replica with room."),
        ("captures_total", "counter", "Sampled requests and what became of their captures."),
        ("ejections_total", "counter", "Replicas that were ejected, by what they had failed with."),
        ("mirrored_total", "counter", "Requests that were to be mirrored to the deployment, by what became of them."),
        ("mirrors_in_flight", "gauge", "Mirrored requests at the replicas."),
        ("connections", "gauge", "Open connections of clients."),
        ("connections_refused_total", "counter", "Connections beyond a bound: of the worker, or of one peer."),
        ("requests_in_flight", "gauge", "Requests at the replicas."),
        ("deployment_in_flight", "gauge", "Requests at the replicas of the deployment."),
        ("requests_queued", "gauge", "Requests that wait for a replica with room."),
        ("replicas", "gauge", "Replicas of the deployment."),
        ("replicas_ejected", "gauge", "Replicas that get no requests because they failed."),
        ("snapshot_version", "gauge", "The applied snapshot."),
        ("spool_pending_records", "gauge", "Usage records that are not in the spool's file yet."),
        ("access_log_dropped_total", "counter", "Lines of the access log that could not be written in time."),
        ("resident_bytes", "gauge", "Resident memory of the worker."),
    )
}

Lines = dict[str, list[str]]


def exposition(metrics: Metrics) -> str:
    lines: Lines = {name: [] for name in _FAMILIES}
    worker = f'worker="{metrics.worker}"'
    for series, deployment in list(metrics.deployments.items()):
        _deployment(lines, worker, series, deployment)
    for tenant, sums in metrics.tenants.items():
        for name, value in zip(("requests", "prompt_tokens", "completion_tokens"), sums, strict=True):
            _sample(lines, f"tenant_{name}_total", f'{worker},tenant="{tenant}"', value)
    for code, count in metrics.refusals.items():
        _sample(lines, "refused_total", f'{worker},code="{code}"', count)
    for name, labels, number in metrics.gauges():
        texts = [worker, *(f'{label}="{text}"' for label, text in labels.items())]
        _sample(lines, name, ",".join(texts), number)
    return _render(lines)


def _sample(lines: Lines, name: str, labels: str, value: float) -> None:
    name = _PREFIX + name
    lines[name].append(f"{name}{{{labels}}} {value}")


def _deployment(lines: Lines, worker: str, series: Series, metrics: DeploymentMetrics) -> None:
    labels = f'{worker},tenant="{series.tenant}",service="{series.service}",deployment="{series.deployment}"'
    for (status, outcome), count in metrics.outcomes.items():
        _sample(lines, "requests_total", f'{labels},status="{status}",outcome="{outcome}"', count)
    _sample(lines, "prompt_tokens_total", labels, metrics.prompt_tokens)
    _sample(lines, "completion_tokens_total", labels, metrics.completion_tokens)
    whole = metrics.latencies()
    for name, histogram in (
        ("time_to_first_token_seconds", whole.first_token),
        ("inter_token_seconds", whole.inter_token),
        ("request_duration_seconds", whole.duration),
        ("queue_seconds", whole.queue),
    ):
        lines[_PREFIX + name].extend(_histogram(_PREFIX + name, labels, histogram))


def _histogram(name: str, labels: str, histogram: Histogram) -> Iterator[str]:
    for bound, count in cumulative(histogram.buckets):
        yield f'{name}_bucket{{{labels},le="{bound}"}} {count}'
    yield f"{name}_sum{{{labels}}} {histogram.sum:.6f}"
    yield f"{name}_count{{{labels}}} {histogram.count}"


def _render(lines: Lines) -> str:
    out: list[str] = []
    for name, samples in lines.items():
        if samples:
            kind, text = _FAMILIES[name]
            out += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples]
    return "\n".join(out) + "\n" if out else ""


def merge_expositions(expositions: Iterable[str]) -> str:
    """One exposition of several workers', each family's samples together as the format wants them."""
    lines: Lines = {name: [] for name in _FAMILIES}
    family = ""
    for text in expositions:
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                family = line.split(" ")[2]
            elif line and not line.startswith("#") and family in lines:
                lines[family].append(line)
    return _render(lines)
