"""The files between the planes: whole or absent, torn or damaged, written while they are read."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.gateway.plane import wire
from appliance.gateway.plane.frames import encode_frame, read_frames, whole_bytes
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.meter import encode_record, recover, tail_bound
from appliance.gateway.plane.paths import prepare, spool_directory
from appliance.gateway.plane.slots import CAPACITY, SLOTS, Progress, RequestIdentity, SlotTable, read_left_overs
from appliance.gateway.plane.snapshot import SnapshotReader
from appliance.gateway.plane.spool import Spool
from appliance.gateway.plane.status import StatusWriter, read_status

LOG = Log(test=True)


def record(number: int, **changes: Any) -> wire.UsageRecord:
    plain = wire.UsageRecord(
        record_id=f"r{number}",
        request_id="q",
        at=1.0,
        tenant_id="ten_1",
        key_id="key_1",
        service_id="svc_1",
        deployment_id="dep_1",
        replica_id="rpl_1",
        route="POST /v1/chat/completions",
        model="m",
        status=200,
        outcome="completed",
    )
    return msgspec.structs.replace(plain, **changes)


def identity(number: int, **changes: Any) -> RequestIdentity:
    plain = RequestIdentity(
        record_id=f"r{number}",
        request_id="q",
        at=1.0,
        tenant_id="ten_1",
        key_id="key_1",
        service_id="svc_1",
        deployment_id="dep_1",
        replica_id="rpl_1",
        route="POST /v1/chat/completions",
        model="m",
        prompt_estimate=5,
    )
    return msgspec.structs.replace(plain, **changes)


# Frames and spool


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 4000), st.integers(0, 4000), st.integers(0, 255))
def test_segment_that_is_torn_or_damaged_gives_what_is_before(
    tmp_path: Path, length: int, position: int, byte: int
) -> None:
    frames = [encode_frame(record(number)) for number in range(10)]
    content = bytearray(b"".join(frames))
    content[position % len(content)] = byte
    path = tmp_path / "segment"
    path.write_bytes(content[: length % (len(content) + 1)])

    found = [each for each, _ in read_frames(path)]

    assert found == [record(number) for number in range(len(found))]


def test_reading_goes_on_from_an_offset(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(b"".join(encode_frame(record(number)) for number in range(3)))
    offsets = [offset for _, offset in read_frames(path)]

    assert [each.record_id for each, _ in read_frames(path, offsets[0])] == ["r1", "r2"]
    assert offsets[-1] == path.stat().st_size == whole_bytes(path)


class _AtOnce(Executor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        fn(*args, **kwargs)


def test_slots_are_given_back_when_the_record_is_in_the_file(tmp_path: Path) -> None:
    freed: list[int] = []
    spool = Spool(tmp_path, freed=freed.extend, log=LOG)
    spool.append(encode_record(record(1)), 7)
    assert (freed, spool.pending) == ([], 1)
    spool.flush()
    assert (freed, spool.pending) == ([7], 0)
    (path,) = tmp_path.glob("*.open")
    assert [each for each, _ in read_frames(path)] == [record(1)]
    spool.close()
    assert [path.suffix for path in tmp_path.iterdir()] == [".seg"]


def test_segments_are_sealed_by_size(tmp_path: Path) -> None:
    spool = Spool(tmp_path, freed=lambda _: None, log=LOG)
    for number in range(20_000):
        spool.append(encode_record(record(number)), None)
        spool.seal_if_due(_AtOnce())
    spool.close()
    segments = sorted(tmp_path.glob("*.seg"))
    assert len(segments) > 1
    found = [each.record_id for path in segments for each, _ in read_frames(path)]
    assert found == [f"r{number}" for number in range(20_000)]


def test_full_disk_keeps_records_and_slots_until_there_is_room(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the full disk: write(2) fails in the middle of a frame."""
    script = """
import resource, signal, sys
from pathlib import Path
from tests.plane.test_files import LOG, encode_record, record, Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
freed = []
spool = Spool(Path(sys.argv[1]), freed=freed.extend, log=LOG)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for number in range(10):
    spool.append(encode_record(record(number)), number)
    spool.flush()
assert 0 < len(freed) < 10, freed
assert spool.pending == 10 - len(freed)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.close()
assert freed == list(range(10)), freed
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=30)
    (path,) = tmp_path.glob("*.seg")
    assert [each.record_id for each, _ in read_frames(path)] == [f"r{number}" for number in range(10)]


# Slots


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
    table.end(ended, encode_record(record(1, completion_tokens=5)))  # type: ignore[arg-type]
    table.free(done)  # type: ignore[arg-type]
    table.update(streaming, *Progress(9, 100, 1, 5000, now, now + 1, now + 2))  # type: ignore[arg-type]

    assert recover(home, 0, LOG) == 3
    found = {each.record_id: each for each in recovered(home)}

    assert found["r1"] == record(1, completion_tokens=5)
    assert (found["r0"].outcome, found["r0"].prompt_tokens, found["r0"].estimated) == ("worker_lost", 5, True)
    lost = found["r3"]
    assert (lost.outcome, lost.prompt_tokens, lost.completion_tokens, lost.estimated) == ("worker_lost", 9, 100, False)
    assert lost.tail_tokens > 0
    assert recover(home, 0, LOG) == 0


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
    table.end(slot, encode_record(record(0, **long, **texts, **numbers, estimated=True, ttft_ms=1.5, duration_ms=1e9)))


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


# Status


def test_status_tells_what_was_written(tmp_path: Path) -> None:
    writer = StatusWriter(tmp_path / "worker-0")
    first, second = writer.claim("rpl_1"), writer.claim("rpl_2")
    writer.set_in_flight(first, 3, 4)
    writer.set_in_flight(second, 1, 4)
    writer.applied(7, "")
    writer.set_connections(9)

    status = read_status(tmp_path / "worker-0")

    assert (status.pid, status.start_ticks) == (os.getpid(), wire.start_ticks(os.getpid()))
    assert (status.applied_version, status.in_flight_total, status.connections, status.draining) == (7, 4, 9, False)
    assert status.replicas == {"rpl_1": (3, 0), "rpl_2": (1, 0)}
    writer.release(first)
    assert read_status(tmp_path / "worker-0").replicas == {"rpl_2": (1, 0)}
    assert writer.claim("rpl_3") == first
    assert 0 <= time.clock_gettime_ns(time.CLOCK_BOOTTIME) - status.heartbeat < 60e9


def test_readers_never_see_half_a_change(tmp_path: Path) -> None:
    """The writer keeps `rpl_a` in flight as long as a version below 1000 is told."""
    path = tmp_path / "worker-0"
    script = """
import sys
from pathlib import Path
from appliance.gateway.plane.status import StatusWriter
writer = StatusWriter(Path(sys.argv[1]))
print("ready", flush=True)
version = 0
while True:
    version += 1
    names = [writer.claim(f"rpl_{version}_{n}") for n in range(20)]
    for entry in names:
        writer.set_in_flight(entry, version, version)
    writer.applied(version, f"error {version}" * 5)
    for entry in names:
        writer.release(entry)
"""
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        seen = 0
        for _ in range(3000):
            try:
                status = read_status(path)
            except ValueError:
                continue  # the writer was never still for long enough: told, not guessed
            seen += 1
            assert status.error in ("", f"error {status.applied_version}" * 5)
            assert all(name.startswith("rpl_") for name in status.replicas)
        assert seen > 0
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"x" * 300_000])
def test_file_that_is_no_status(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "worker-0").write_bytes(content)
    with pytest.raises(ValueError, match="not a worker's status"):
        read_status(tmp_path / "worker-0")


# Snapshot


def shards(*services: str) -> dict[str, msgspec.Struct]:
    made: dict[str, msgspec.Struct] = {
        wire.service_shard(name): wire.ServiceShard(name, "ten_1", "acme", name, name, [], []) for name in services
    }
    return {"listeners": wire.ListenersShard([]), "keys-00": wire.KeysShard({}), **made}


def test_publishing_the_same_again_writes_nothing(tmp_path: Path) -> None:
    writer = wire.SnapshotWriter(tmp_path)
    assert writer.publish(shards("a")) == 1
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert writer.publish(shards("a")) == 1
    assert wire.SnapshotWriter(tmp_path).publish(shards("a")) == 1
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_only_what_changed_is_written_and_read_again(tmp_path: Path) -> None:
    writer, reader = wire.SnapshotWriter(tmp_path), SnapshotReader(tmp_path)
    assert reader.poll() is False
    writer.publish(shards("a", "b"))
    assert reader.poll() is True
    first = reader.current
    assert reader.poll() is False
    writer.publish(shards("a", "c"))
    assert reader.poll() is True
    second = reader.current
    assert first is not None
    assert second is not None
    assert (second.version, set(second.services)) == (2, {"a", "c"})
    assert second.services["a"] is first.services["a"]


def test_shards_of_the_last_two_manifests_are_kept(tmp_path: Path) -> None:
    writer = wire.SnapshotWriter(tmp_path)
    for name in "abcd":
        writer.publish(shards(name))
    kept = sorted(path.name.split("-")[1] for path in tmp_path.glob("service-*"))
    assert kept == ["c", "d"]


def test_damaged_set_falls_back_at_start_and_stays_put_later(tmp_path: Path) -> None:
    writer, running = wire.SnapshotWriter(tmp_path), SnapshotReader(tmp_path)
    writer.publish(shards("a"))
    running.poll()
    writer.publish(shards("b"))
    next(tmp_path.glob("service-b-*")).write_bytes(b"{}")

    fresh = SnapshotReader(tmp_path)
    for reader in (running, fresh):
        assert reader.poll() is True
        assert reader.current is not None
        assert reader.current.version == 1
        assert "service-b" in reader.error
    assert writer.publish(shards("b", "c")) == 3


def test_version_grows_on_even_if_the_manifest_is_damaged(tmp_path: Path) -> None:
    writer = wire.SnapshotWriter(tmp_path)
    writer.publish(shards("a"))
    writer.publish(shards("b"))
    (tmp_path / "manifest.json").write_bytes(b"")
    assert writer.publish(shards("c")) == 3  # not 2 again: somebody may have acknowledged that


@pytest.mark.parametrize("shard_id", ["../x", "a/b", "", "A", "x" * 100])
def test_shard_id_that_is_no_file_name(tmp_path: Path, shard_id: str) -> None:
    with pytest.raises(ValueError, match="shard id"):
        wire.SnapshotWriter(tmp_path).publish({shard_id: wire.KeysShard({})})


def test_reader_beside_a_writer_sees_whole_sets_only(tmp_path: Path) -> None:
    writer = wire.SnapshotWriter(tmp_path)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            writer.publish(shards(f"s{number}", f"t{number}"))

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        reader = SnapshotReader(tmp_path)
        seen: set[int] = set()
        deadline = time.monotonic() + 20
        while len(seen) < 20 and time.monotonic() < deadline:
            if reader.poll() and reader.current is not None and not reader.error:
                names = sorted(reader.current.services)
                assert [name[0] for name in names] == ["s", "t"]
                assert names[0][1:] == names[1][1:]
                seen.add(reader.current.version)
        stop.set()
        writing.result()
    assert len(seen) >= 20
