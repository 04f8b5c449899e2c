"""What a launch needs on its node first: the image, pulled where it is missing, the model's files, read once; then its
turn on a device that it shares.

Each may take minutes. Each is a phase that is told with its progress; while there is any, the replica's deadline moves
on. A replica that is not to start any more is noticed at the next word, and the work is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import update

from appliance.kernel.progress import Progress
from appliance.services import turns
from appliance.services.errors import PreparationStalled
from appliance.services.events import note
from appliance.services.machinery import Machinery
from appliance.services.states import Phase, ReplicaState
from appliance.services.tables import DeploymentRow, ReplicaRow
from appliance.services.transitions import PLACED_DEADLINE, Overtaken

_TICK_S: Final = 0.5
_WORD_S: Final = 5.0
"""How often the database hears that the work goes on."""
_STALLED_S: Final = 100.0
"""Without a sign of life in this time the storage or the registry hangs; below the deadline that it moves on."""


@dataclass(frozen=True, slots=True)
class _Subject:
    replica_id: str
    service_id: str
    image: str | None
    version_id: str


async def prepare(machinery: Machinery, replica_id: str) -> None:
    """Have the replica's image and model ready on this node. Raises an `ApplianceError` with the reason why not."""
    subject = await _subject(machinery, replica_id)
    images = machinery.launcher.images
    if images is not None and subject.image is not None and not await images.exists(subject.image):
        message = f"pulling the image {subject.image}"
        await _Phase(machinery, subject, Phase.pulling_image, message).run(partial(images.pull, subject.image))
    if not await machinery.model_verifier.is_verified(subject.version_id):
        message = "comparing the model's files with their checksums"
        verify = partial(machinery.model_verifier.verify, subject.version_id)
        await _Phase(machinery, subject, Phase.verifying_model, message).run(verify)


async def await_turn(machinery: Machinery, replica_id: str) -> None:
    """For one that stands in line. Raises `Unavailable` where it cannot be known whose turn it is."""
    if not await turns.is_turn(machinery, replica_id):
        subject = await _subject(machinery, replica_id)
        message = "another replica's engine loads on the same device; they start one after another"
        wait = partial(turns.until_turn, machinery, replica_id)
        await _Phase(machinery, subject, Phase.waiting_for_device, message).run(wait)


async def _subject(machinery: Machinery, replica_id: str) -> _Subject:
    async with machinery.guarded.read() as session:
        replica = await session.get_one(ReplicaRow, replica_id)
        deployment = await session.get_one(DeploymentRow, replica.deployment_id)
    return _Subject(replica_id, replica.service_id, deployment.image, deployment.model_version_id)


class _Phase:
    def __init__(self, machinery: Machinery, subject: _Subject, phase: Phase, message: str) -> None:
        self._machinery, self._subject, self._phase, self._message = machinery, subject, phase, message
        self._progress = Progress()
        self._told = self._beats = 0
        self._moved_at = self._word_at = asyncio.get_running_loop().time()

    async def run(self, work: Callable[[Progress], Awaitable[None]]) -> None:
        await self._tell(self._message)
        task = asyncio.ensure_future(work(self._progress))
        try:
            while not (await asyncio.wait({task}, timeout=_TICK_S))[0]:
                await self._look()
        finally:
            self._progress.stop()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        task.result()

    async def _look(self) -> None:
        """One tick: tell what is new, and see whether the work is still wanted and goes on."""
        if self._machinery.ending.is_set():
            raise Overtaken(f"{self._subject.replica_id} is prepared again at the next start")
        now, progress = asyncio.get_running_loop().time(), self._progress
        if progress.beats != self._beats or not progress.beats:  # not begun: it waits for its turn
            self._beats, self._moved_at = progress.beats, now
        elif now - self._moved_at > _STALLED_S:
            raise PreparationStalled(f"{self._message}: nothing has moved for {_STALLED_S:.0f} s")
        if progress.tenths > self._told:
            self._told = progress.tenths
            await self._tell(f"{self._message}, {10 * self._told} %")
        elif now - self._word_at > _WORD_S and now - self._moved_at < _WORD_S:
            await self._tell(None)

    async def _tell(self, message: str | None) -> None:
        self._word_at = asyncio.get_running_loop().time()
        clock, subject = self._machinery.clock, self._subject
        mine = update(ReplicaRow).where(
            ReplicaRow.id == subject.replica_id, ReplicaRow.state == ReplicaState.placed.value
        )
        async with self._machinery.guarded.write() as session:
            moved = await session.execute(mine.values(deadline_at=clock.now() + PLACED_DEADLINE))
            if not moved.rowcount:  # type: ignore[attr-defined]  # the result of an UPDATE is a CursorResult
                raise Overtaken(f"{subject.replica_id} is not placed any more")
            if message is not None:
                detail = {"bytes_done": self._progress.done, "bytes_total": self._progress.total}
                note(
                    session,
                    clock,
                    subject.service_id,
                    self._phase,
                    message,
                    replica_id=subject.replica_id,
                    detail=detail,
                )
