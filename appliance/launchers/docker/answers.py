"""What the daemon answers, as far as we read it, and what its refusals mean."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec
from docker.errors import APIError
from msgspec import Struct

from appliance.kernel.errors import ApplianceError
from appliance.launchers.contract import APPLIANCE_LABEL, REPLICA_LABEL, ExitInfo, ObservedReplica, ReplicaState, Stats
from appliance.launchers.docker.containers import LOG_LABEL, container_name
from appliance.launchers.errors import ImageMissing, StartRefused

_STATES = {
    "created": ReplicaState.CREATED,
    "running": ReplicaState.RUNNING,
    "paused": ReplicaState.RUNNING,
    "restarting": ReplicaState.RUNNING,
    "exited": ReplicaState.EXITED,
    "dead": ReplicaState.EXITED,
}
_NANO = 1_000_000_000
# The convention of shells and of the containers' init: 128 + the number of the signal that ended the engine.
_SIGNAL_BASE = 128
_LAST_SIGNAL = 64
_REASON_CHARACTERS = 400


class ContainerStatus(Struct, frozen=True, rename="pascal"):
    status: str
    exit_code: int
    started_at: datetime
    finished_at: datetime
    out_of_memory: bool = msgspec.field(name="OOMKilled", default=False)


class ContainerConfig(Struct, frozen=True, rename="pascal"):
    labels: dict[str, str] | None = None


class Container(Struct, frozen=True, rename="pascal"):
    """`GET /containers/<id>/json`."""

    id: str
    name: str
    state: ContainerStatus
    config: ContainerConfig

    @property
    def replica_state(self) -> ReplicaState | None:
        """None while the daemon removes it."""
        return state_of(self.state.status)

    @property
    def labels(self) -> dict[str, str]:
        return self.config.labels or {}

    def belongs_to(self, appliance_id: str) -> bool:
        """By label and name: an image made from a container of ours hands its labels on."""
        replica_id = self.labels.get(REPLICA_LABEL, "")
        ours = self.labels.get(APPLIANCE_LABEL) == appliance_id
        return ours and self.name == f"/{container_name(replica_id)}"

    def observed(self, state: ReplicaState, last_lines: tuple[str, ...]) -> ObservedReplica:
        return ObservedReplica(
            replica_id=self.labels[REPLICA_LABEL],
            labels={key: value for key, value in self.labels.items() if key != LOG_LABEL},
            state=state,
            handle=self.id,
            started_at=0.0 if state is ReplicaState.CREATED else self.state.started_at.timestamp(),
            exit=self._exit(last_lines) if state is ReplicaState.EXITED else None,
        )

    def _exit(self, last_lines: tuple[str, ...]) -> ExitInfo:
        number = self.state.exit_code - _SIGNAL_BASE
        killed = 0 < number <= _LAST_SIGNAL
        return ExitInfo(
            code=None if killed else self.state.exit_code,
            signal=number if killed else None,
            out_of_memory=self.state.out_of_memory,
            at=self.state.finished_at.timestamp(),
            last_lines=last_lines,
        )


class ContainerSummary(Struct, frozen=True, rename="pascal"):
    """An element of `GET /containers/json`."""

    id: str
    state: str


class _CpuUsage(Struct, frozen=True):
    total_usage: int = 0


class _CpuStats(Struct, frozen=True):
    cpu_usage: _CpuUsage = _CpuUsage()


class _MemoryStats(Struct, frozen=True):
    usage: int = 0
    stats: dict[str, int] = {}


class _PidsStats(Struct, frozen=True):
    current: int = 0


class ContainerStats(Struct, frozen=True):
    """`GET /containers/<id>/stats`; of a container that does not run, everything is left out."""

    cpu_stats: _CpuStats = _CpuStats()
    memory_stats: _MemoryStats = _MemoryStats()
    pids_stats: _PidsStats = _PidsStats()

    def stats(self) -> Stats:
        """Memory as `docker stats` shows it: without the page cache that the kernel may drop."""
        droppable = self.memory_stats.stats
        cache = droppable.get("total_inactive_file", droppable.get("inactive_file", 0))
        return Stats(
            cpu_seconds=self.cpu_stats.cpu_usage.total_usage / _NANO,
            memory_bytes=max(0, self.memory_stats.usage - cache),
            pids=self.pids_stats.current,
        )


class Image(Struct, frozen=True, rename="pascal"):
    """`GET /images/<name>/json`."""

    id: str
    size: int
    repo_digests: list[str] | None = None


def state_of(status: str) -> ReplicaState | None:
    return _STATES.get(status)


def refusal(error: APIError, image: str | None) -> ApplianceError:
    """The daemon's refusal to create or start, in words for the person who asked."""
    said = explanation(error)
    if re.search(r"no such image|manifest unknown", said, re.IGNORECASE):
        return ImageMissing(f"The image {image} is not on this machine; import it, or choose one that is.")
    for pattern, reason in _REASONS:
        if match := re.search(pattern, said, re.IGNORECASE):
            return StartRefused(match.expand(reason), docker=said)
    return StartRefused(f"Docker refuses to start the replica: {said[:_REASON_CHARACTERS]}", docker=said)


_REASONS = (
    (r'exec: "([^"]+)": (?:executable file not found|stat .*no such file)', r"The image has no program \1."),
    (r'exec: "([^"]+)": permission denied', r"The image's program \1 may not be executed."),
    (
        r"could not select device driver",
        "Docker has no NVIDIA container runtime; install the NVIDIA container toolkit.",
    ),
    (r'error gathering device information .*"([^"]+)": no such file', r"The device node \1 does not exist."),
    (r"bind source path does not exist: (\S+)", r"The folder \1 does not exist."),
    (r"no space left on device", "The disk of Docker's storage is full."),
    (r"minimum memory limit", "The memory limit is below what Docker allows (6 MiB)."),
)


def explanation(error: APIError) -> str:
    """The daemon's own words, on one line."""
    explanation: Any = error.explanation
    text = explanation.decode(errors="replace") if isinstance(explanation, bytes) else str(explanation or error)
    return " ".join(text.split())
