"""The snapshot: written and read as whole sets, damaged or beside a writer."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from appliance.gateway.plane import wire
from appliance.gateway.plane.snapshot import SnapshotReader


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
