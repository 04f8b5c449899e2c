"""Summing up waiting usage: nothing is lost or doubled, wherever it is interrupted and whoever takes part."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.gateway.plane import rollup
from appliance.gateway.plane.frames import claim, encode_frame, read_records, sealed_segments
from appliance.gateway.plane.histograms import Histogram
from appliance.gateway.plane.meter import recover
from appliance.gateway.plane.paths import prepare, spool_directory
from appliance.gateway.plane.schemas.records import LatencyRecord, SpoolRecord, UsageRecord, UsageRollup
from appliance.gateway.plane.slots import SLOTS, Ending, Progress, SlotTable
from tests.plane.records import LOG, identity, record


def usage(number: int) -> UsageRecord:
    """Of one of three keys and two models, within ten hours."""
    return record(
        number,
        at=float(number * 37 % 36_000),
        key_id=f"key_{number % 3}",
        model=f"m{number % 2}",
        status=(200, 429, 0)[number % 3],
        prompt_tokens=number,
        completion_tokens=2 * number,
        tail_tokens=number % 5,
        estimated=number % 7 == 0,
    )


def latency(number: int) -> LatencyRecord:
    histogram = Histogram()
    histogram.observe(number / 100)
    return LatencyRecord(f"l{number}", 60.0 * number, 60, "ten_1", "svc_1", "dep_1", 1, duration=histogram.durations())


def write(path: Path, records: Iterable[SpoolRecord]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(encode_frame, records)))


def contents(spool: Path) -> list[SpoolRecord]:
    return [each for path in sealed_segments(spool) for each, _ in read_records(path)]


def totals(records: Iterable[SpoolRecord]) -> dict[tuple[str, str], list[int]]:
    """Requests, failed, cut, estimated, prompt, completion and tail tokens by key and model."""
    sums: dict[tuple[str, str], list[int]] = {}
    for each in records:
        if isinstance(each, LatencyRecord):
            continue
        if isinstance(each, UsageRollup):
            told = [each.requests, each.failed, each.cut, each.estimated]
        else:
            told = [1, int(each.status >= 400), int(each.status == 0), int(each.estimated)]
        told += [each.prompt_tokens, each.completion_tokens, each.tail_tokens]
        before = sums.setdefault((each.key_id, each.model), [0] * len(told))
        sums[each.key_id, each.model] = [a + b for a, b in zip(before, told, strict=True)]
    return sums


@given(st.lists(st.integers(0, 100_000), unique=True, max_size=60), st.integers(0, 60))
def test_sums_stand_for_what_they_replace(numbers: list[int], cut: int) -> None:
    plain: list[SpoolRecord] = [usage(number) for number in numbers]
    at_once = rollup.summed(plain)
    in_two = rollup.summed([*rollup.summed(plain[:cut]), *plain[cut:]])
    assert totals(plain) == totals(at_once) == totals(in_two)
    assert len(in_two) == len(at_once) <= 60


def test_latencies_are_merged_by_the_hour() -> None:
    first, second = rollup.summed(latency(number) for number in range(1, 119))
    assert isinstance(first, LatencyRecord)
    assert isinstance(second, LatencyRecord)
    assert (first.at, first.span_s, first.requests, second.requests) == (0.0, 3600, 59, 59)
    assert sum(first.duration.buckets.values()) == 59
    assert first.duration.sum_s == pytest.approx(sum(number / 100 for number in range(1, 60)))


def test_days_without_the_control_plane_take_little_room(tmp_path: Path) -> None:
    """Three days of 100 requests a minute, and more of the same."""
    worker = tmp_path / "worker-0"
    written: list[SpoolRecord] = []
    for day in range(3):
        for part in range(24):
            records = [
                record(number, record_id=f"{day}-{part}-{number}", at=86_400.0 * day + 3600.0 * part, prompt_tokens=7)
                for number in range(6000)
            ]
            written += records
            write(worker / f"{day:02}{part:018}.seg", records)
            while rollup.roll_up(worker):
                pass
    assert totals(contents(tmp_path)) == totals(written)
    assert sum(path.stat().st_size for path in worker.iterdir()) < 50_000
    assert len(list(worker.iterdir())) < 2 * rollup.MANY


def test_what_the_ingest_has_claimed_is_not_summed_up(tmp_path: Path) -> None:
    write(tmp_path / "worker-0" / "01.seg", [usage(1)])
    write(tmp_path / "worker-0" / "02.seg", [usage(2)])
    assert claim(tmp_path / "worker-0" / "01.seg") is not None
    assert rollup.roll_up(tmp_path / "worker-0")
    assert not rollup.roll_up(tmp_path / "worker-0")
    assert usage(1) in contents(tmp_path)
    assert totals(contents(tmp_path)) == totals([usage(1), usage(2)])
    assert claim(tmp_path / "worker-0" / "02.seg") is None


def test_damaged_segment_is_left_to_the_ingest(tmp_path: Path) -> None:
    write(tmp_path / "worker-0" / "01.seg", [usage(1)])
    damaged = tmp_path / "worker-0" / "02.seg"
    write(damaged, [usage(2), usage(3)])
    damaged.write_bytes(damaged.read_bytes()[:-3])
    rollup.roll_up(tmp_path / "worker-0")
    assert sorted(path.suffix for path in damaged.parent.iterdir()) == [".seg", ".taken"]


_STEPS = """
import os, signal, sys
from pathlib import Path
from appliance.gateway.plane import rollup
stop, steps = int(sys.argv[2]), 0

def counting(call):
    def wrapped(*arguments, **named):
        global steps
        steps += 1
        if steps == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return wrapped

for name in ("rename", "replace", "unlink", "fsync"):
    setattr(os, name, counting(getattr(os, name)))
rollup.roll_up(Path(sys.argv[1]))
print(steps)
"""


def test_kill_at_any_step_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Each call that changes the directory is a step; the ingest takes a segment after some of the kills."""
    records = [usage(number) for number in range(40)]
    chance = random.Random(5)

    def prepared(name: str) -> Path:
        for number in range(4):
            write(tmp_path / name / "worker-0" / f"{number:02}.seg", records[10 * number : 10 * number + 10])
        return tmp_path / name

    def run(spool: Path, stop: int) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-c", _STEPS, str(spool / "worker-0"), str(stop)]
        return subprocess.run(command, capture_output=True, timeout=30, check=False)

    steps = int(run(prepared("whole"), 0).stdout)
    assert steps > 10
    for stop in range(1, steps + 1):
        spool = prepared(f"killed-{stop}")
        assert run(spool, stop).returncode == -signal.SIGKILL
        ingested: list[SpoolRecord] = []
        if chance.random() < 0.5:
            for path in sealed_segments(spool):
                taken = claim(path)
                assert taken is not None
                ingested += [each for each, _ in read_records(taken)]
                taken.unlink()
        while rollup.roll_up(spool / "worker-0"):
            pass
        assert totals([*ingested, *contents(spool)]) == totals(records), stop


def test_recovery_that_is_killed_and_repeated_counts_once(tmp_path: Path) -> None:
    """The worker died after it had written one of two ended requests, and a recovery died before it was done."""
    prepare(tmp_path)
    directory = spool_directory(tmp_path, 0)
    directory.mkdir()
    table = SlotTable(directory / SLOTS)
    for number in range(3):
        slot = table.claim(identity(number), time.monotonic())
        assert slot is not None
        if number < 2:
            table.end(slot, Progress(0, 0, 0, 0, 0.0, 0.0, 0.0), Ending(200, "completed", 1.0))
    write(directory / "00000000000000000001.open", [record(0)])
    kept = (directory / SLOTS).read_bytes()

    recover(tmp_path, 0, LOG)
    found = contents(tmp_path / "gateway" / "spool")
    assert sorted(each.record_id for each in found) == ["r0", "r1", "r2"]

    # As if it had been killed between the whole recovered segment and the removal of the slots.
    (segment,) = [path for path in directory.glob("*.seg") if path.name != "00000000000000000001.seg"]
    segment.rename(segment.with_suffix(".recovered"))
    (directory / SLOTS).write_bytes(kept)
    assert recover(tmp_path, 0, LOG) == 0
    assert sorted(each.record_id for each in contents(tmp_path / "gateway" / "spool")) == ["r0", "r1", "r2"]
    assert not (directory / SLOTS).exists()
