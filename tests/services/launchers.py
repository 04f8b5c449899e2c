"""A launcher in memory that keeps the contract of `appliance.launchers.contract`, and can be told to misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from appliance.kernel.clock import Clock
from appliance.launchers.contract import (
    EngineLayout,
    ExitInfo,
    ImageStore,
    ObservedReplica,
    ReplicaSpec,
    ReplicaState,
    Stats,
)
from appliance.launchers.errors import LauncherUnavailable, ReplicaRunning, ReplicaUnknown
from tests.services.engines import FakeEngine, Manners


class MemoryLauncher:
    """`log` is what every engine has logged. `may_start` holds starts back while it is clear. As with the real
    launchers, a start that its caller gave up goes on.
    """

    name = "process"
    isolates = False
    images: ImageStore | None = None

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._specs: dict[str, ReplicaSpec] = {}
        self._engines: dict[str, FakeEngine] = {}
        self._exits: dict[str, ExitInfo] = {}
        self._starts: set[asyncio.Task[str]] = set()
        self.manners = Manners()
        self.is_reachable = True
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.starting: set[str] = set()
        self.stopped: list[str] = []
        self.log: list[str] = []

    @property
    def running(self) -> set[str]:
        return set(self._engines)

    def answered(self, replica_id: str) -> int:
        """Bytes of answers (an engine without metrics only answers completions with any) so far."""
        return self._engines[replica_id].bytes_sent

    def layout(self, *, run_dir: Path, model_dir: Path | None, cache_dir: Path | None) -> EngineLayout:
        return EngineLayout(socket=run_dir / "engine.sock", model=model_dir, cache=cache_dir)

    async def start(self, spec: ReplicaSpec) -> str:
        self._reach()
        start = asyncio.create_task(self._start(spec))
        self._starts.add(start)
        start.add_done_callback(self._starts.discard)
        return await asyncio.shield(start)

    async def list(self) -> Sequence[ObservedReplica]:
        self._reach()
        return [
            ObservedReplica(
                replica_id=replica_id,
                labels=spec.labels,
                state=ReplicaState.RUNNING if replica_id in self._engines else ReplicaState.EXITED,
                handle=replica_id,
                started_at=self._clock.now().timestamp(),
                exit=self._exits.get(replica_id),
            )
            for replica_id, spec in self._specs.items()
        ]

    async def stop(self, replica_id: str, *, grace_s: float) -> None:  # noqa: ARG002 - the contract's
        self._reach()
        await self.die(replica_id)
        self.stopped.append(replica_id)

    async def remove(self, replica_id: str) -> None:
        self._reach()
        if replica_id in self._engines:
            raise ReplicaRunning(f"{replica_id} runs")
        self._specs.pop(replica_id, None)
        self._exits.pop(replica_id, None)

    async def logs(self, replica_id: str, *, tail: int | None = None) -> Sequence[str]:  # noqa: ARG002 - as above
        self._reach()
        if replica_id not in self._specs:
            raise ReplicaUnknown(f"there is no {replica_id}")
        return self.log

    async def follow(self, replica_id: str) -> AsyncIterator[str]:
        for line in await self.logs(replica_id):
            yield line

    async def stats(self, replica_id: str) -> Stats:
        return Stats(cpu_seconds=0.0, memory_bytes=0, pids=int(replica_id in self._engines))

    async def settled(self) -> None:
        """Wait for the starts whose callers gave up."""
        await asyncio.gather(*self._starts)

    async def close(self) -> None:
        await self.settled()
        for replica_id in [*self._engines]:
            await self.die(replica_id)

    async def die(self, replica_id: str, *last_lines: str) -> None:
        """The engine ends, as if by itself."""
        engine = self._engines.pop(replica_id, None)
        if engine is not None:
            await engine.stop()
            self._exits[replica_id] = ExitInfo(
                code=1, signal=None, out_of_memory=False, at=self._clock.now().timestamp(), last_lines=last_lines
            )

    async def _start(self, spec: ReplicaSpec) -> str:
        self.starting.add(spec.replica_id)
        await self.may_start.wait()
        self.starting.discard(spec.replica_id)
        if spec.replica_id not in self._specs:
            spec.run_dir.mkdir(parents=True)
            engine = FakeEngine(spec.run_dir / "engine.sock", self.manners)
            await engine.start()
            self._specs[spec.replica_id], self._engines[spec.replica_id] = spec, engine
        return spec.replica_id

    def _reach(self) -> None:
        if not self.is_reachable:
            raise LauncherUnavailable("the launcher does not answer")
