"""What the reconciler and its jobs work with, by protocol, so that each piece can stand alone in a test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.leases import Guarded
from appliance.kernel.progress import Progress
from appliance.launchers.contract import Launcher
from appliance.runtimes.catalog import Catalog
from appliance.services.backoff import Backoff
from appliance.services.line import Line
from appliance.services.transitions import SERVICES, STOPPING_MARGIN
from gpu.reading import SnapshotReader
from gpu.reserving import ReservedNodes


class Publisher(Protocol):
    async def publish(self) -> int:
        """Write the snapshot of the database as committed now; the version that holds it."""
        ...


class Acknowledgements(Protocol):
    def acknowledged(self, version: int) -> bool: ...

    def in_flight(self, replica_ids: Iterable[str]) -> int: ...


class ModelVerifier(Protocol):
    async def is_verified(self, version_id: str) -> bool:
        """Whether this node has read the version's files and found them to be what was imported."""
        ...

    async def verify(self, version_id: str, progress: Progress) -> None:
        """Read them. Raises an `ApplianceError` that names the file which is not what it was."""
        ...


ModelFolder = Callable[[AsyncSession, str], Awaitable[Path]]
"""The folder with the files of a model version, by its id."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient the jobs are."""

    probe_s: float
    probe_period_s: float
    stop_grace_s: float
    drain: timedelta

    @property
    def stopping(self) -> timedelta:
        """How long a stop may take before it is told as late."""
        return timedelta(seconds=self.stop_grace_s) + STOPPING_MARGIN


@dataclass(frozen=True, slots=True)
class Machinery:
    guarded: Guarded
    clock: Clock
    launcher: Launcher
    catalog: Catalog
    publisher: Publisher
    acknowledgements: Acknowledgements
    model_folder: ModelFolder
    model_verifier: ModelVerifier
    appliance_id: str
    home: Path
    environments: Path
    backoff: Backoff
    timing: Timing
    compute: SnapshotReader = field(default_factory=SnapshotReader)
    reserved: ReservedNodes = field(default_factory=ReservedNodes)
    line: Line = field(default_factory=Line)
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process ends: what prepares a launch gives up."""

    def wake(self) -> None:
        """Ask for a round of the services' reconciler."""
        self.guarded.database.activate((SERVICES,))

    def run_dir(self, replica_id: str) -> Path:
        return self.home / "run" / "e" / replica_id

    def log_path(self, replica_id: str) -> Path:
        return self.home / "logs" / "replicas" / f"{replica_id}.log"
