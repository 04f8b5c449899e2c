"""Frames and spool: a segment is whole, torn or damaged, and a full disk loses nothing."""

import subprocess
import sys
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.gateway.plane.frames import encode_frame, read_frames, whole_bytes
from appliance.gateway.plane.meter import encode_record
from appliance.gateway.plane.spool import Spool
from tests.plane.records import LOG, record


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
from appliance.gateway.plane.meter import encode_record
from appliance.gateway.plane.spool import Spool
from tests.plane.records import LOG, record
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
