"""Usage rows equal the spool: each record once, whatever is killed or damaged."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.ingest import BATCH, Insert, Kind, UsageIngest
from appliance.gateway.plane.frames import encode_frame
from appliance.gateway.plane.wire import Durations, LatencyRecord, SpoolRecord, UsageRecord, UsageRollup
from appliance.kernel import leases
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.errors import LeaseLost
from appliance.kernel.leases import Guarded
from tenants.usage import insert_usage
from tenants.usage_tables import UsageRow
from tests.plane import records


def record(number: int, **changes: Any) -> UsageRecord:
    usage = {"record_id": f"use_{number:08}", "request_id": f"req_{number}", "at": 1_767_225_600.0 + number}
    tokens = {"prompt_tokens": 3, "completion_tokens": 5}
    return records.record(number, **(usage | tokens | {"model": "chat"} | changes))


def rollup(number: int) -> UsageRollup:
    return UsageRollup(f"sum_{number}", 1_767_225_600.0, 3600, "ten_1", "key_1", "svc_1", "chat", 10)


def latency(number: int) -> LatencyRecord:
    duration = Durations({40: 1}, 0.5)
    return LatencyRecord(f"lat_{number}", 1_767_225_600.0, 60, "ten_1", "svc_1", "dep_1", 1, duration=duration)


class Spool:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.quarantine = directory / "quarantine"
        directory.mkdir()

    def write(self, name: str, records: Sequence[SpoolRecord], *, worker: int = 1, tail: bytes = b"") -> Path:
        folder = self.directory / f"worker-{worker}"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_bytes(b"".join(encode_frame(usage) for usage in records) + tail)
        return path

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.directory)) for path in self.directory.rglob("*") if path.is_file())


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.fixture
def ingest(guarded: Guarded, spool: Spool) -> UsageIngest:
    return UsageIngest(guarded, spool.directory, insert_usage)


async def totals(database: Database) -> tuple[int, int]:
    """Rows and completion tokens."""
    async with database.read() as session:
        query = select(func.count(), func.coalesce(func.sum(UsageRow.completion_tokens), 0))
        rows, tokens = (await session.execute(query)).one()
        return rows, int(tokens)


async def test_sealed_segments_are_ingested_and_removed(database: Database, spool: Spool, ingest: UsageIngest) -> None:
    count = 2 * BATCH + 3
    spool.write("01.seg", [record(number) for number in range(count)])
    spool.write("02.seg", [record(count)], worker=2)
    status = await ingest.reconcile()
    assert (status.segments, status.records, status.inserted) == (2, count + 1, count + 1)
    assert await totals(database) == (count + 1, 5 * (count + 1))
    assert spool.files() == []


async def test_open_segment_is_left_alone(database: Database, spool: Spool, ingest: UsageIngest) -> None:
    """With the torn tail of a write that is under way."""
    path = spool.write("01.open", [record(1)], tail=encode_frame(record(2))[:-4])
    await ingest.reconcile()
    assert await totals(database) == (0, 0)
    assert spool.files() == ["worker-1/01.open"]
    spool.write("01.open", [record(1), record(2)])
    path.rename(path.with_suffix(".seg"))
    await ingest.reconcile()
    assert await totals(database) == (2, 10)


async def test_segment_that_was_not_removed_counts_once(database: Database, spool: Spool, ingest: UsageIngest) -> None:
    records = [record(number) for number in range(10)]
    spool.write("01.seg", records[:6])
    await ingest.reconcile()
    spool.write("01.seg", records)  # as if the process had been killed before the removal, and more had been added
    status = await ingest.reconcile()
    assert (status.records, status.inserted) == (16, 10)
    assert await totals(database) == (10, 50)


@pytest.mark.parametrize("damage", ["flipped", "torn", "length"])
async def test_damaged_segment_is_put_aside(database: Database, spool: Spool, ingest: UsageIngest, damage: str) -> None:
    frame = bytearray(encode_frame(record(2)))
    match damage:
        case "flipped":
            frame[-1] ^= 0xFF
        case "torn":
            del frame[-3:]
        case "length":
            frame[3] = 0xFF
    spool.write("01.seg", [record(1)], tail=bytes(frame))
    spool.write("02.seg", [record(3)])
    status = await ingest.reconcile()
    assert (status.inserted, status.damaged_segments) == (2, 1)
    assert await totals(database) == (2, 10)
    assert spool.files() == ["quarantine/worker-1-01.seg"]
    assert await ingest.reconcile() == status, "it is not tried again"


async def test_record_that_cannot_be_stored_is_put_aside(database: Database, spool: Spool, ingest: UsageIngest) -> None:
    bad = [record(1, at=float("nan")), record(2, at=1e300), record(3, bytes_out=2**63), record(4, ttft_ms=float("inf"))]
    spool.write("01.seg", [record(0), *bad, record(5)])
    status = await ingest.reconcile()
    assert (status.inserted, status.refused_records) == (2, 4)
    assert await totals(database) == (2, 10)
    assert spool.files() == ["quarantine/worker-1-01.seg.refused.jsonl"]


async def test_record_that_the_database_refuses_does_not_hold_up_the_others(
    database: Database, guarded: Guarded, spool: Spool
) -> None:
    async def insert_with_null(session: AsyncSession, records: list[dict[str, Any]]) -> int:
        broken = [{**usage, "model": None} if usage["record_id"] == "use_00000003" else usage for usage in records]
        for usage in broken:
            if usage["model"] is None:
                session.add(UsageRow(record_id=usage["record_id"]))
                await session.flush()
        return await insert_usage(session, broken)

    ingest = UsageIngest(guarded, spool.directory, insert_with_null)
    spool.write("01.seg", [record(number) for number in range(10)])
    status = await ingest.reconcile()
    assert (status.inserted, status.refused_records) == (9, 1)
    assert await totals(database) == (9, 45)
    (name,) = spool.files()
    assert '"record_id":"use_00000003"' in (spool.directory / name).read_text()


async def test_stale_holder_ingests_nothing(
    database: Database, spool: Spool, ingest: UsageIngest, clock: ManualClock
) -> None:
    spool.write("01.seg", [record(1)])
    async with database.write() as session:
        await leases.take(session, "control", "another", clock)
    with pytest.raises(LeaseLost):
        await ingest.reconcile()
    assert await totals(database) == (0, 0)
    assert spool.files() == ["worker-1/01.taken"]


async def test_claimed_segment_of_a_killed_process_is_taken_by_the_next(
    database: Database, spool: Spool, ingest: UsageIngest
) -> None:
    spool.write("01.taken", [record(1)])
    await ingest.reconcile()
    assert await totals(database) == (1, 5)
    assert spool.files() == []


async def test_sums_and_latencies_go_to_their_own_tables(guarded: Guarded, spool: Spool) -> None:
    taken: list[tuple[str, list[dict[str, Any]]]] = []

    def inserter(name: str) -> Insert:
        async def insert(_: AsyncSession, records: list[dict[str, Any]]) -> int:
            taken.append((name, records))
            return len(records)

        return insert

    others: dict[Kind, Insert] = {UsageRollup: inserter("sums"), LatencyRecord: inserter("latencies")}
    ingest = UsageIngest(guarded, spool.directory, inserter("usage"), others)
    spool.write("01.seg", [latency(1), record(1), rollup(2), record(3)])
    status = await ingest.reconcile()
    assert (status.records, status.inserted) == (4, 4)
    assert [(name, [each["record_id"] for each in records]) for name, records in taken] == [
        ("usage", ["use_00000001", "use_00000003"]),
        ("sums", ["sum_2"]),
        ("latencies", ["lat_1"]),
    ]
    assert taken[2][1][0]["duration"] == {"buckets": {"40": 1}, "sum_s": 0.5}


async def test_kinds_without_a_table_hold_up_nothing_and_usage_is_kept(
    database: Database, spool: Spool, ingest: UsageIngest
) -> None:
    spool.write("01.seg", [latency(1), record(1), rollup(2)])
    status = await ingest.reconcile()
    assert (status.inserted, status.refused_records, status.skipped_latencies) == (1, 1, 1)
    assert await totals(database) == (1, 5)
    (name,) = spool.files()
    assert '"record_id":"sum_2"' in (spool.directory / name).read_text()


_PROGRAM = """
import asyncio, sys
from pathlib import Path
from appliance.gateway.ingest import UsageIngest
from appliance.kernel import leases
from appliance.kernel.clock import SystemClock
from appliance.kernel.db import Database
from tenants.usage import insert_usage

async def main():
    database = Database(sys.argv[1])
    async with database.write() as session:
        lease = await leases.take(session, "control", "program", SystemClock())
    await UsageIngest(leases.Guarded(database, lease), Path(sys.argv[2]), insert_usage).reconcile()
    await database.close()

asyncio.run(main())
"""


async def test_exactly_once_when_killed_at_every_point(
    database: Database, clock: ManualClock, spool: Spool, tmp_path: Path
) -> None:
    """`kill -9` at each crash point that a run of two segments has, discovered by running."""
    url, trace = database.engine.url.render_as_string(hide_password=False), tmp_path / "trace"

    def run(**environment: str) -> int:
        arguments = [sys.executable, "-c", _PROGRAM, url, str(spool.directory)]
        return subprocess.run(arguments, env={**os.environ, **environment}, timeout=60, check=False).returncode

    def fill(first: int) -> None:
        spool.write("01.seg", [record(number) for number in range(first, first + BATCH + 10)])
        spool.write("02.seg", [record(first + BATCH + 10)], worker=2)

    fill(0)
    assert run(APPLIANCE_CRASH_TRACE=str(trace)) == 0
    steps = trace.read_text().splitlines()
    assert len([step for step in steps if step.startswith("usage.batch_committed")]) == 3
    assert len([step for step in steps if step.startswith("usage.segment_removed")]) == 2
    points = [f"{step}#{steps[: position + 1].count(step)}" for position, step in enumerate(steps)]
    expected = BATCH + 11
    for point in points:
        fill(expected)
        expected += BATCH + 11
        assert run(APPLIANCE_CRASH_AT=point) == -signal.SIGKILL
        async with database.write() as session:
            successor = Guarded(database, await leases.take(session, "control", "successor", clock))
        await UsageIngest(successor, spool.directory, insert_usage).reconcile()
        assert await totals(database) == (expected, 5 * expected)
        assert spool.files() == []
