"""Slots: what a dead worker left is recovered, and everything fits."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.gateway.plane import wire
from appliance.gateway.plane.frames import encode_frame, read_frames
from appliance.gateway.plane.meter import billed, encode_record, recover, tail_bound, usage_record
from appliance.gateway.plane.paths import prepare, spool_directory
from appliance.gateway.plane.slots import CAPACITY, SLOTS, Ending, Progress, SlotTable, end_left_over, read_left_overs
from tests.plane.records import LOG, identity, record


@pytest.fixture
def home(tmp_path: Path) -> Path:
    prepare(tmp_path)
    spool_directory(tmp_path, 0).mkdir()
    return tmp_path


def recovered(home: Path) -> Iterator[wire.UsageRecord]:
    for path in wire.sealed_segments(home / "gateway" / "spool"):
        for each, _ in read_frames(path):
            yield each


def test_what_a_dead_worker_left_is_recovered_as_it_was(home: Path) -> None:
    now = time.monotonic()
    table = SlotTable(spool_directory(home, 0) / SLOTS)
    begun, ended, done, streaming = (table.claim(identity(number), now) for number in range(4))
    assert None not in (begun, ended, done, streaming)
    ending = Ending(200, "completed", now + 3, queue_ms=1.5, inter_token_count=4, inter_token_ms=2.25)
    progress = Progress(7, 5, 1, 900, now, now + 1, now + 2)
    table.end(ended, progress, ending)  # type: ignore[arg-type]
    table.free(done)  # type: ignore[arg-type]
    table.update(streaming, *Progress(9, 100, 1, 5000, now, now + 1, now + 2))  # type: ignore[arg-type]

    assert recover(home, 0, LOG) == 3
    found = {each.record_id: each for each in recovered(home)}

    assert found["r1"] == usage_record(identity(1), progress, ending)
    assert found["r1"] == record(
        1,
        prompt_tokens=7,
        completion_tokens=5,
        bytes_out=900,
        queue_ms=1.5,
        ttft_ms=1000.0,
        duration_ms=3000.0,
        inter_token_count=4,
        inter_token_ms=2.25,
    )
    assert (found["r0"].outcome, found["r0"].prompt_tokens, found["r0"].estimated) == ("worker_lost", 5, True)
    lost = found["r3"]
    assert (lost.outcome, lost.prompt_tokens, lost.completion_tokens, lost.estimated) == ("worker_lost", 9, 100, False)
    assert lost.tail_tokens > 0
    assert recover(home, 0, LOG) == 0


@pytest.mark.parametrize("outcome", wire.OUTCOMES)
def test_an_ending_is_kept_as_it_was(home: Path, outcome: wire.Outcome) -> None:
    table = SlotTable(spool_directory(home, 0) / SLOTS)
    slot = table.claim(identity(0), 1.0)
    assert slot is not None
    progress, ending = Progress(1, 2, 3, 4, 5.0, 6.0, 7.0), Ending(502, outcome, 8.0, False, 9.0, 10, 11.0)
    table.end(slot, progress, ending)
    (left,) = read_left_overs(spool_directory(home, 0) / SLOTS)
    assert (left.progress, left.ending, left.record) == (progress, ending, None)


def test_a_record_that_is_in_its_slot_already_is_the_one(home: Path) -> None:
    table = SlotTable(spool_directory(home, 0) / SLOTS)
    slot = table.claim(identity(0), 1.0)
    assert slot is not None
    kept = record(0, outcome="worker_lost", completion_tokens=5)
    end_left_over(spool_directory(home, 0) / SLOTS, slot, encode_record(kept))
    assert recover(home, 0, LOG) == 1
    assert list(recovered(home)) == [kept]


def test_open_segment_of_a_dead_worker_is_sealed_without_its_torn_end(home: Path) -> None:
    path = spool_directory(home, 0) / "00000000000000000001.open"
    path.write_bytes(encode_frame(record(1)) + encode_frame(record(2))[:-3])
    SlotTable(spool_directory(home, 0) / SLOTS)

    recover(home, 0, LOG)

    assert list(recovered(home)) == [record(1)]


def test_all_slots_can_be_taken_and_no_more(tmp_path: Path) -> None:
    table = SlotTable(tmp_path / SLOTS)
    taken = [table.claim(identity(number), 1.0) for number in range(CAPACITY)]

    assert (len(set(taken)), table.claim(identity(0), 1.0)) == (CAPACITY, None)
    assert sum(1 for _ in read_left_overs(tmp_path / SLOTS)) == CAPACITY
    table.free_all([slot for slot in taken if slot is not None])
    assert table.in_use == 0
    assert list(read_left_overs(tmp_path / SLOTS)) == []


def test_longest_identity_and_record_fit(tmp_path: Path) -> None:
    long = dict.fromkeys(("tenant_id", "key_id", "service_id", "deployment_id", "replica_id"), "x" * 26)
    texts = {"record_id": "x" * 32, "request_id": "x" * 128, "route": "x" * 100, "model": "x" * 120}
    table = SlotTable(tmp_path / SLOTS)
    slot = table.claim(identity(0, **long, **texts, bytes_in=2**40, token_limit=2**31), 1.0)
    assert slot is not None
    numbers = dict.fromkeys(
        ("prompt_tokens", "completion_tokens", "tail_tokens", "bytes_in", "bytes_out", "inter_token_count"), 2**40
    )
    longest = record(0, **long, **texts, **numbers, estimated=True, ttft_ms=1.5, duration_ms=1e9)
    end_left_over(tmp_path / SLOTS, slot, encode_record(longest))


@pytest.mark.parametrize(
    ("progress", "limit", "until", "bound"),
    [
        (Progress(9, 100, 1, 0, 0.0, 1.0, 2.0), 0, 2.0, 202),  # 100/s, doubled, over one second, and two chunks
        (Progress(9, 100, 1, 0, 0.0, 1.0, 2.0), 0, 3.0, 402),
        (Progress(9, 100, 1, 0, 0.0, 1.0, 2.0), 120, 3.0, 20),
        (Progress(9, 100, 1, 0, 0.0, 1.0, 2.0), 90, 3.0, 0),
        (Progress(0, 0, 0, 0, 1.0, 0.0, 0.0), 0, 2.0, 2002),
        (Progress(0, 0, 0, 0, 1.0, 0.0, 0.0), 64, 2.0, 64),
    ],
)
def test_tail_is_bounded_by_rate_and_by_what_was_asked_for(
    progress: Progress, limit: int, until: float, bound: int
) -> None:
    assert tail_bound(identity(0, token_limit=limit), progress, until) == bound


@pytest.mark.parametrize(
    ("limits", "told", "counted"),
    [
        ({}, (10**9, 10**9), (10**9, 10**9)),  # nothing is known of what could be
        ({"token_limit": 64}, (24, 10**9), (24, 64)),
        ({"token_limit": 64}, (24, 64), (24, 64)),
        ({"context": 4096}, (10**9, 10**9), (4096, 4096)),
        ({"context": 4096, "token_limit": 64}, (24, 65), (24, 64)),
    ],
)
def test_engine_is_believed_as_far_as_it_can_be_true(
    limits: dict[str, int], told: tuple[int, int], counted: tuple[int, int]
) -> None:
    progress = Progress(*told, 1, 0, 1.0, 2.0, 3.0)
    assert billed(identity(0, **limits), progress, Ending(200, "completed", 4.0)) == counted


def test_estimate_is_billed_of_what_reached_an_engine_that_told_nothing() -> None:
    progress = Progress(0, 3, 1, 0, 1.0, 2.0, 3.0)
    assert billed(identity(0), progress, Ending(200, "client_cut", 4.0)) == (5, 3)
    assert billed(identity(0), progress, Ending(502, "upstream_error", 4.0)) == (0, 3)
    assert billed(identity(0), progress, Ending(503, "client_cut", 4.0, reached=False)) == (0, 3)
