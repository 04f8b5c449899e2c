"""The history's file: packed, bounded, and never worth more than its own samples."""

import sqlite3
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.observe.blocks import Values, unpack
from appliance.observe.store import DAY_S, HOUR_S, MINUTE_S, SLICE_S, HistoryFailed, Kind, Store, minutes

BEGIN = 1_700_000_000 - 1_700_000_000 % DAY_S
STEP = 10
SERIES = "dev_1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(path, most_bytes=64 << 20)
    yield store
    store.close()


def fill(store: Store, seconds: int, *, begin: int = BEGIN, series: int = 1) -> dict[int, list[int | None]]:
    """A sample of three gauges each ten seconds; the last is not known in every third."""
    samples: dict[int, list[int | None]] = {}
    for at in range(begin, begin + seconds, STEP):
        samples[at] = [at % 97, at * 1000, None if at // STEP % 3 == 0 else at % 7]
        store.append(at, {f"dev_{number}": samples[at] for number in range(1, series + 1)})
    return samples


def rows(store: Store, table: str) -> int:
    with sqlite3.connect(store.path) as file:
        (count,) = file.execute(f"SELECT count(*) FROM {table}").fetchone()
    file.close()
    return int(count)


def test_samples_are_there_before_and_after_they_are_packed(store: Store) -> None:
    samples = fill(store, HOUR_S + SLICE_S // 2)
    assert store.read(SERIES, Kind.raw, BEGIN, BEGIN + DAY_S) == samples
    told = store.read(SERIES, Kind.minutes, BEGIN, BEGIN + DAY_S)
    assert told == minutes(samples)
    store.keep_house(max(samples))
    assert rows(store, "frames") == SLICE_S // 2 // STEP, "what is not over is not packed"
    assert rows(store, "blocks") == 6 + 1, "six of samples, one of minutes"
    assert store.read(SERIES, Kind.raw, BEGIN, BEGIN + DAY_S) == samples
    assert store.read(SERIES, Kind.minutes, BEGIN, BEGIN + DAY_S) == told
    some = {at: values for at, values in samples.items() if BEGIN + 605 <= at < BEGIN + 1805}
    assert store.read(SERIES, Kind.raw, BEGIN + 605, BEGIN + 1805) == some
    assert store.read("dev_2", Kind.raw, BEGIN, BEGIN + DAY_S) == {}


def test_a_minute_is_the_count_mean_and_largest_of_what_was_known() -> None:
    samples: dict[int, list[int | None]] = {0: [1, None], 10: [2, None], 59: [6, None], 60: [None, 4]}
    assert minutes(samples) == {0: [3, 3, 6, 0, None, None], 60: [0, None, None, 1, 4, 4]}


def test_what_was_written_survives_the_process(store: Store, path: Path) -> None:
    samples = fill(store, SLICE_S)
    other = Store(path, most_bytes=64 << 20)  # the first has not closed its file, as one that was killed has not
    assert other.read(SERIES, Kind.raw, BEGIN, BEGIN + DAY_S) == samples
    other.close()


def test_samples_go_after_a_day_and_minutes_after_thirty(store: Store) -> None:
    fill(store, HOUR_S)
    fill(store, HOUR_S, begin=BEGIN + 2 * DAY_S)
    store.keep_house(BEGIN + 2 * DAY_S + HOUR_S)
    assert min(store.read(SERIES, Kind.raw, BEGIN, BEGIN + 3 * DAY_S)) == BEGIN + 2 * DAY_S
    assert len(store.read(SERIES, Kind.minutes, BEGIN, BEGIN + 3 * DAY_S)) == 2 * HOUR_S // MINUTE_S
    store.keep_house(BEGIN + 31 * DAY_S)
    assert min(store.read(SERIES, Kind.minutes, BEGIN, BEGIN + 3 * DAY_S)) == BEGIN + 2 * DAY_S


def test_a_late_sample_joins_those_that_are_packed(store: Store) -> None:
    samples = fill(store, SLICE_S)
    store.keep_house(BEGIN + SLICE_S)
    late = BEGIN + 5
    store.append(late, {SERIES: [1, 2, 3]})
    store.keep_house(BEGIN + SLICE_S)
    assert rows(store, "frames") == 0
    assert store.read(SERIES, Kind.raw, BEGIN, BEGIN + DAY_S) == {**samples, late: [1, 2, 3]}


def test_the_oldest_goes_before_the_bound_is_reached(path: Path) -> None:
    store = Store(path, most_bytes=0)
    for day in range(4):
        fill(store, 4 * HOUR_S, begin=BEGIN + day * 4 * HOUR_S, series=100)
        store.keep_house(BEGIN + (day + 1) * 4 * HOUR_S)
    store.close()  # it opens anew, with the new bound
    store.most_bytes = store.size() // 2
    store.keep_house(BEGIN + 16 * HOUR_S)
    left = store.read(SERIES, Kind.raw, BEGIN, BEGIN + DAY_S)
    assert max(left) == BEGIN + 16 * HOUR_S - STEP
    assert min(left) > BEGIN
    store.close()


def test_a_full_file_refuses_samples_and_takes_them_again_when_there_is_room(path: Path) -> None:
    """SQLite gives the same error for its own bound as for a disk without room."""
    store = Store(path, most_bytes=0)
    store.most_bytes = 128 * 1024
    written = 0

    def write_on() -> None:
        nonlocal written
        for at in range(BEGIN, BEGIN + DAY_S):
            store.append(at, {f"dev_{number}": [at * number % 7919, at] for number in range(50)})
            written += 1

    with pytest.raises(HistoryFailed, match="full"):
        write_on()
    assert written > 10
    assert path.stat().st_size <= 128 * 1024
    assert len(store.read("dev_3", Kind.raw, BEGIN, BEGIN + DAY_S)) == written, "what was written is there"
    store.keep_house(BEGIN)
    store.append(BEGIN + DAY_S, {SERIES: [1, 2]})
    assert store.read(SERIES, Kind.raw, BEGIN + DAY_S, BEGIN + DAY_S + 1) == {BEGIN + DAY_S: [1, 2]}
    store.close()


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.9, 0.999])
def test_a_torn_tail_costs_samples_at_most(store: Store, path: Path, tmp_path: Path, kept: float) -> None:
    """The write-ahead log as a crash of the machine may leave it."""
    samples = fill(store, SLICE_S)
    torn = tmp_path / "torn" / path.name
    torn.parent.mkdir()
    log = path.with_name(f"{path.name}-wal")
    torn.write_bytes(path.read_bytes())
    whole = log.read_bytes()
    torn.with_name(log.name).write_bytes(whole[: round(len(whole) * kept)])
    other = Store(torn, most_bytes=64 << 20)
    found = other.read(SERIES, Kind.raw, BEGIN, BEGIN + DAY_S)
    assert found == {at: samples[at] for at in sorted(samples)[: len(found)]}, "those before the tear, and no others"
    other.append(BEGIN + DAY_S, {SERIES: [1, 2, 3]})
    other.close()


@pytest.mark.parametrize("damage", [b"not a database at all, however long it is" * 50, b"\0" * 8192])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(path: Path, damage: bytes) -> None:
    store = Store(path, most_bytes=64 << 20)
    fill(store, 60)
    store.close()
    content = path.read_bytes()
    path.write_bytes((damage + content[len(damage) :])[: len(content)])
    with pytest.raises(HistoryFailed, match="set aside"):
        store.append(BEGIN + 60, {SERIES: [1, 2, 3]})
    store.append(BEGIN + 70, {SERIES: [1, 2, 3]})
    assert store.read(SERIES, Kind.raw, BEGIN, BEGIN + DAY_S) == {BEGIN + 70: [1, 2, 3]}
    assert path.with_name(f"{path.name}.damaged").exists()
    store.close()


def test_a_damaged_block_costs_its_own_samples(store: Store) -> None:
    samples = fill(store, 2 * SLICE_S)
    store.keep_house(BEGIN + 2 * SLICE_S)
    with sqlite3.connect(store.path) as file:
        file.execute("UPDATE blocks SET body = x'00' WHERE kind = 0 AND start = ?", (BEGIN,))
    file.close()
    left = {at: values for at, values in samples.items() if at >= BEGIN + SLICE_S}
    assert store.read(SERIES, Kind.raw, BEGIN, BEGIN + DAY_S) == left


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path / "missing" / "telemetry.sqlite", most_bytes=0)
    with pytest.raises(HistoryFailed):
        store.append(BEGIN, {SERIES: [1]})
    assert store.size() == 0


def test_readers_and_the_writer_do_not_disturb_one_another(store: Store) -> None:
    failures: list[Exception] = []

    def read() -> None:
        try:
            for _ in range(50):
                store.read(SERIES, Kind.minutes, BEGIN, BEGIN + DAY_S)
        except HistoryFailed as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    samples = fill(store, HOUR_S)
    store.keep_house(BEGIN + HOUR_S)
    for reader in readers:
        reader.join()
    assert failures == []
    assert store.read(SERIES, Kind.raw, BEGIN, BEGIN + DAY_S) == samples


def test_of_a_frame_only_what_is_asked_for_is_decoded(store: Store, path: Path) -> None:
    store.append(BEGIN, {"dev_1": [1, None], "dev_2": [2, 3]})
    with sqlite3.connect(path) as file:  # what the other has is no list of numbers
        body = zlib.compress(msgspec.msgpack.encode({"dev_1": [1, None], "dev_2": "damaged"}))
        file.execute("UPDATE frames SET body = ? WHERE at = ?", (body, BEGIN))
    assert store.read("dev_1", Kind.raw, BEGIN, BEGIN + 1) == {BEGIN: [1, None]}
    assert store.read("dev_2", Kind.raw, BEGIN, BEGIN + 1) == {}
    assert store.read("dev_3", Kind.raw, BEGIN, BEGIN + 1) == {}


def test_a_sample_is_taken_while_another_reads(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding a long history is no part of the transaction."""
    fill(store, SLICE_S)
    store.keep_house(BEGIN + SLICE_S)
    appended = []

    def unpack_slowly(block: bytes) -> dict[int, Values]:
        writer = threading.Thread(target=store.append, args=(BEGIN + SLICE_S, {SERIES: [1, 2, 3]}))
        writer.start()
        writer.join(timeout=10)
        appended.append(not writer.is_alive())
        return unpack(block)

    monkeypatch.setattr("appliance.observe.store.unpack", unpack_slowly)
    assert len(store.read(SERIES, Kind.raw, BEGIN, BEGIN + SLICE_S)) == SLICE_S // STEP
    assert appended == [True]
