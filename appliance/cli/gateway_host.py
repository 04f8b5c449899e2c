"""`appliance gateway top` and `roll`: what only works on the host itself, over the gateway's own files and sockets.

Neither needs the control plane.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from appliance.cli.connection import home
from appliance.cli.errors import CommandFailed
from appliance.cli.output import Columns, show_json
from appliance.cli.screen import table, watch
from appliance.gateway import processes
from appliance.gateway.plane.debug import DeploymentState, WorkerState
from appliance.gateway.plane.histograms import Histogram, quantile
from appliance.gateway.plane.local import STATE, ask

_decode = msgspec.json.Decoder(WorkerState).decode
_POLL_S: Final = 0.2

WORKERS: Final[Columns] = (
    ("WORKER", "worker"),
    ("PID", "pid"),
    ("STATE", "state"),
    ("SNAPSHOT", "snapshot_version"),
    ("CONN", "connections"),
    ("IN FLIGHT", "in_flight"),
    ("SLOTS", "spool.slots"),
    ("UNWRITTEN", "spool.pending"),
    ("MEMORY", "memory"),
    ("UP", "up"),
)
SERVICES: Final[Columns] = (
    ("SERVICE", "service"),
    ("DEPLOYMENT", "deployment"),
    ("REQ/S", "rate"),
    ("ERR/S", "errors"),
    ("TOK/S", "tokens"),
    ("TTFT p50", "ttft_50"),
    ("p95", "ttft_95"),
    ("TOKEN p50", "token_50"),
    ("p95", "token_95"),
    ("TOTAL p50", "total_50"),
    ("p95", "total_95"),
    ("QUEUE p95", "queue_95"),
    ("IN FLIGHT", "in_flight"),
    ("REPLICAS", "replicas"),
    ("DOWN", "down"),
)


@click.command("top")
@click.option("--once", is_flag=True, help="print one look and end; rates and times are then since the workers' start")
@click.option("--json", "as_json", is_flag=True, help="print one look as a JSON array of the workers' states")
@click.option("--every", type=click.FloatRange(0.2), default=2.0, show_default=True, help="seconds between looks")
def top(*, once: bool, as_json: bool, every: float) -> None:
    """Show what the gateway on this host does now: its workers, and each deployment's rates and times.

    Ctrl-C ends it.
    """
    before: list[WorkerState] = []

    def states() -> list[WorkerState]:
        found = asyncio.run(look(home()))
        if not found:
            raise CommandFailed(
                f"no gateway runs here: no worker answers below {home() / 'run'}. `appliance gateway top` works on the "
                "gateway's host, as its user; set APPLIANCE_HOME if its state is elsewhere"
            )
        return found

    def lines() -> Iterator[str]:
        nonlocal before
        now = states()
        yield from screen(now, before)
        before = now

    if as_json:
        show_json(msgspec.to_builtins(states(), str_keys=True))
        return
    watch(lines, every=every, once=once)


@click.command("roll")
@click.option("--timeout", type=click.FloatRange(min=0), default=300.0, show_default=True, help="seconds to wait")
@click.option("--json", "as_json", is_flag=True, help="print how many workers were replaced as a JSON object")
def roll(*, timeout: float, as_json: bool) -> None:
    """Replace the gateway's processes by ones of the code that is installed now, without losing a request."""
    supervisor = processes.supervisor(home())
    if supervisor is None:
        raise CommandFailed(f"no gateway runs here: there is no supervisor below {home() / 'run'}")
    old = set(_worker_pids())
    supervisor.signal(signal.SIGHUP)
    supervisor.close()
    deadline = time.monotonic() + timeout
    while old & set(_worker_pids()):
        if time.monotonic() > deadline:
            left = ", ".join(map(str, sorted(old & set(_worker_pids()))))
            raise CommandFailed(f"after {timeout:g} s these workers still finish their requests: {left}")
        time.sleep(_POLL_S)
    if as_json:
        show_json({"replaced": len(old)})
    else:
        click.echo(f"gateway: {len(old)} workers replaced")


def _worker_pids() -> Iterator[int]:
    for process in processes.workers(home()):
        yield process.pid
        process.close()


async def look(folder: Path) -> list[WorkerState]:
    """The states of the workers that answer, by number."""
    sockets = (folder / "run").glob("worker-*-metrics.sock")
    indexes = sorted(int(path.name.split("-")[1]) for path in sockets)
    answers = await asyncio.gather(*(ask(folder, index, STATE) for index in indexes), return_exceptions=True)
    states = []
    for answer in answers:
        if isinstance(answer, bytes):
            states.append(_decode(answer))
        elif not isinstance(answer, OSError):
            raise answer
    return states


def screen(states: Sequence[WorkerState], before: Sequence[WorkerState]) -> Iterator[str]:
    """The lines of one look. Rates and times are of the time since `before`, without it since the start."""
    refused = sum(sum(state.refused.values()) for state in states)
    in_flight = sum(state.in_flight for state in states)
    connections = sum(state.connections for state in states)
    yield (
        f"gateway  workers {len(states)}  connections {connections}  in flight {in_flight}  "
        f"refused {refused}  {time.strftime('%H:%M:%S')}"
    )
    yield ""
    yield from table([_worker(state) for state in states], WORKERS)
    yield ""
    rows = _services(states, before)
    yield from table(rows, SERVICES) if rows else ["no requests yet"]


def _worker(state: WorkerState) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(state, str_keys=True)
    shown["state"] = "disk full" if state.spool.failing else "draining" if state.draining else "serving"
    shown["memory"] = f"{state.resident_bytes / 2**20:.0f} MiB"
    shown["up"] = f"{state.uptime_s:.0f} s"
    return {"snapshot_version": state.snapshot_version} | shown


class _Merged:
    """One deployment over all workers, less what was before."""

    def __init__(self) -> None:
        self.name = ""
        self.requests = self.failed = self.tokens = 0
        self.histograms = {name: Histogram() for name in ("first_token", "inter_token", "duration", "queue")}

    def add(self, now: DeploymentState, before: DeploymentState | None) -> None:
        self.name = now.service or now.service_id
        self.requests += now.requests - (before.requests if before else 0)
        self.failed += now.failed - (before.failed if before else 0)
        self.tokens += now.completion_tokens - (before.completion_tokens if before else 0)
        for name, histogram in self.histograms.items():
            counts = dict(getattr(now, name).buckets)
            for bucket, count in getattr(before, name).buckets.items() if before else ():
                counts[bucket] = counts.get(bucket, 0) - count
            histogram.add({bucket: count for bucket, count in counts.items() if count > 0}, 0.0)


def _services(states: Sequence[WorkerState], before: Sequence[WorkerState]) -> list[dict[str, Any]]:
    former = {state.pid: {each.deployment_id: each for each in state.deployments} for state in before}
    seconds = max((_span(state, before) for state in states), default=1.0)
    merged: dict[tuple[str, str], _Merged] = {}
    for state in states:
        for each in state.deployments:
            told = merged.setdefault((each.service_id, each.deployment_id), _Merged())
            told.add(each, former.get(state.pid, {}).get(each.deployment_id))
    rows = []
    for (_, deployment_id), told in sorted(merged.items(), key=lambda item: -item[1].requests):
        replicas = [replica for state in states for replica in state.replicas if replica.deployment_id == deployment_id]
        rows.append(
            {
                "service": told.name,
                "deployment": deployment_id or "none",
                "rate": f"{told.requests / seconds:.1f}",
                "errors": f"{told.failed / seconds:.1f}",
                "tokens": f"{told.tokens / seconds:.0f}",
                **_times(told),
                "in_flight": sum(replica.in_flight for replica in replicas),
                "replicas": len({replica.id for replica in replicas}),
                "down": len({replica.id for replica in replicas if replica.down_s}),
            }
        )
    return rows


def _span(state: WorkerState, before: Sequence[WorkerState]) -> float:
    """Seconds that the state's differences are of."""
    former = next((each for each in before if each.pid == state.pid), None)
    return max(state.at - former.at if former else state.uptime_s, 0.001)


def _times(told: _Merged) -> dict[str, str]:
    names = {"ttft": "first_token", "token": "inter_token", "total": "duration", "queue": "queue"}
    return {
        f"{short}_{percent}": _duration(quantile(told.histograms[name].buckets, percent / 100))
        for short, name in names.items()
        for percent in (50, 95)
    }


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"
