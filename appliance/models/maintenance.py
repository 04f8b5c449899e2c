"""Makes the store equal the database: runs imports, ends what expired, collects what nothing refers to.

A round only starts what is missing and never waits for an import, which may take an hour: imports are tasks of
their own, each load (short transaction), process (a thread, no session), apply (guarded by the control lease). An
import that is interrupted by a crash is begun again by the first round of the next process; one whose version was
deleted is stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.errors import ApplianceError, DatabaseUnavailable, LeaseLost
from appliance.kernel.leases import Guarded
from appliance.kernel.logging import get_logger
from appliance.models import collection
from appliance.models.errors import ImportFailed
from appliance.models.ingest import Imported, Notices, Order, ingest
from appliance.models.names import RECONCILER
from appliance.models.orders import load_orders, report, with_files
from appliance.models.progress import STALLED_S, ImportStopped, Progress, Stall
from appliance.models.repository import ModelRepository
from appliance.models.settling import reserve, settle_failed, settle_normal
from tenants.actors import system
from tenants.work import Work

log = get_logger(__name__)
CONCURRENT: Final = 2
REPORT_S: Final = 1.0
SWEEP_S: Final = 3600.0
"""Between two looks at every blob on disk; what the database knows to be unused goes at once."""


class ModelStoreStatus(msgspec.Struct, frozen=True):
    importing: int
    versions_collected: int
    blobs_collected: int
    folders_collected: int
    uploads_expired: int


class _Job:
    def __init__(self, progress: Progress, task: asyncio.Task[None]) -> None:
        self.progress, self.task = progress, task


class ModelStoreKeeper:
    name = RECONCILER
    period_s = 30.0

    def __init__(
        self, guarded: Guarded, repository: ModelRepository, clock: Clock, *, report_s: float = REPORT_S
    ) -> None:
        self._guarded, self._repository, self._clock = guarded, repository, clock
        self._report_s = report_s
        self._threads = ThreadPoolExecutor(CONCURRENT, thread_name_prefix="model-import")
        self._jobs: dict[str, _Job] = {}
        self._applying = asyncio.Lock()
        self._swept_at: float | None = None

    async def reconcile(self) -> ModelStoreStatus:
        await self._follow_orders()
        return await self._collect()

    async def join(self) -> None:
        """Wait until the imports that are running now have ended."""
        await asyncio.gather(*(job.task for job in self._jobs.values()))

    async def close(self) -> None:
        """Stop the imports; the next process begins them again."""
        for job in self._jobs.values():
            job.progress.stop()
        await self.join()
        self._threads.shutdown()

    async def _follow_orders(self) -> None:
        """Start a job for each import without one; stop the jobs whose import was deleted."""
        async with self._guarded.read() as session:
            orders = {order.version_id: order for order in await load_orders(session)}
        for version_id in self._jobs.keys() - orders.keys():
            self._jobs[version_id].progress.stop()
        for version_id in orders.keys() - self._jobs.keys():
            progress = Progress()
            task = asyncio.create_task(self._run(orders[version_id], progress), name=f"import {version_id}")
            self._jobs[version_id] = _Job(progress, task)

    async def _run(self, order: Order, progress: Progress) -> None:
        stored = False
        try:
            with self._repository.store.claims.holding() as claim:
                outcome = await self._process(order, progress, claim)
                stored = outcome is not None and await self._apply(order, outcome)
        except (DatabaseUnavailable, LeaseLost) as error:
            log.warning("model.import.postponed", version=order.version_id, reason=error.detail)
        except Exception:  # the boundary of a background task: logged here, begun again by a later round
            log.exception("model.import.unsettled", version=order.version_id)
        finally:
            self._jobs.pop(order.version_id, None)
            if not stored:
                self._swept_at = None  # it may have placed blobs that no row will ever speak of

    async def _process(
        self, order: Order, progress: Progress, claim: Callable[[str], None]
    ) -> Imported | ApplianceError | None:
        """The file work in a thread, reporting on the way; None where it was stopped."""
        async with self._guarded.read() as session:
            order = await with_files(session, order)
        loop = asyncio.get_running_loop()

        def announce(sizes: Sequence[int]) -> None:
            asyncio.run_coroutine_threadsafe(self._reserve(order, sizes), loop).result()

        notices = Notices(claim, announce)
        working = loop.run_in_executor(self._threads, ingest, self._repository, order, progress, notices)
        stall = Stall(self._clock, progress)
        while not (await asyncio.wait({working}, timeout=self._report_s))[0]:
            if stall.is_over():
                progress.stop()
                return ImportFailed(f"the import made no progress for {STALLED_S:g} s; look at the storage")
            await self._report(order, progress)
        try:
            return working.result()
        except ImportStopped:
            return None
        except (DatabaseUnavailable, LeaseLost):
            raise
        except ApplianceError as error:
            return error
        except Exception:  # the boundary of a background task: a defect of ours must not repeat for ever
            log.exception("model.import.crashed", version=order.version_id)
            return ImportFailed("an unexpected error; the log has it under the version's id")

    async def _reserve(self, order: Order, sizes: Sequence[int]) -> None:
        async with self._applying, self._guarded.write() as session:
            if not await reserve(session, order, sizes):
                raise ImportStopped

    async def _report(self, order: Order, progress: Progress) -> None:
        try:
            async with self._guarded.write() as session:
                if not await report(session, order.version_id, progress):
                    progress.stop()
        except DatabaseUnavailable:
            log.warning("model.import.unreported", version=order.version_id)

    async def _apply(self, order: Order, outcome: Imported | ApplianceError) -> bool:
        """Whether what was stored is now spoken of by rows."""
        async with self._applying, self._guarded.write() as session:
            work = self._work(session)
            if isinstance(outcome, ApplianceError):
                await settle_failed(work, order.version_id, order.tenant_id, outcome)
                return False
            return await settle_normal(work, order, outcome)

    def _work(self, session: AsyncSession) -> Work:
        return Work(session, system(RECONCILER), self._clock)

    async def _collect(self) -> ModelStoreStatus:
        """Rows first, then what the rows no longer speak of."""
        repository = self._repository
        with repository.store.claims.collecting() as unless_claimed:
            async with self._applying, self._guarded.write() as session:
                work = self._work(session)
                expired = await collection.expire_uploads(work)
                versions = await collection.drop_superseded(work, repository)
                hashes = await collection.drop_blob_rows(work)
            if self._is_time_to_sweep():
                hashes = await collection.orphan_blobs(self._guarded, repository.store)
            blobs = await collection.unlink_blobs(repository, hashes, unless_claimed)
            if blobs < len(hashes):
                self._swept_at = None  # claimed by an import, which may still come to nothing
        folders = await collection.sweep_folders(self._guarded, repository.store)
        return ModelStoreStatus(len(self._jobs), versions, blobs, folders, expired)

    def _is_time_to_sweep(self) -> bool:
        now = self._clock.monotonic()
        due = self._swept_at is None or now - self._swept_at >= SWEEP_S
        self._swept_at = now if due else self._swept_at
        return due
