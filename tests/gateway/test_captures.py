"""Captures move from segments into files by service: once, bounded, and not torn by a kill."""

import json
from pathlib import Path

import msgspec
import pytest

from appliance.gateway.captures import CaptureIngest
from appliance.gateway.plane.frames import encode_payload
from appliance.gateway.plane.wire import CaptureRecord


def capture(number: int, service_id: str = "svc_1") -> CaptureRecord:
    return CaptureRecord(
        f"r{number}", f"q{number}", 1.0, "ten_1", "key_1", service_id, "dep_1", "POST /v1/chat/completions", "m", 200,
        "completed", '{"prompt":"hi"}', '{"text":"ho"}',
    )  # fmt: skip


def segment(home: Path, name: str, *records: CaptureRecord) -> Path:
    path = home / "gateway" / "capture" / "worker-0" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(encode_payload(msgspec.msgpack.encode(record)) for record in records))
    return path


async def test_each_service_gets_its_own_files(tmp_path: Path) -> None:
    path = segment(tmp_path, "01.seg", capture(1), capture(2, "svc_2"), capture(3))
    ingest = CaptureIngest(tmp_path, 1 << 20)
    status = await ingest.reconcile()
    assert (status.segments, status.records) == (1, 3)
    assert not path.exists()
    lines = (tmp_path / "captures" / "svc_1" / "worker-0-01.jsonl").read_text().splitlines()
    assert [json.loads(line)["request_id"] for line in lines] == ["q1", "q3"]
    (other,) = (tmp_path / "captures" / "svc_2").iterdir()
    assert other.stat().st_mode & 0o777 == 0o600
    assert '"q1"' not in other.read_text()


async def test_segment_that_is_read_again_changes_nothing(tmp_path: Path) -> None:
    ingest = CaptureIngest(tmp_path, 1 << 20)
    for _ in range(2):  # as if it had been killed before the removal
        segment(tmp_path, "01.seg", capture(1))
        await ingest.reconcile()
    (file,) = (tmp_path / "captures" / "svc_1").iterdir()
    assert len(file.read_text().splitlines()) == 1


async def test_oldest_go_when_the_bound_is_reached(tmp_path: Path) -> None:
    ingest = CaptureIngest(tmp_path, 900)
    for number in range(6):
        segment(tmp_path, f"{number:02}.seg", capture(number))
        await ingest.reconcile()
    names = sorted(path.name for path in (tmp_path / "captures" / "svc_1").iterdir())
    assert names[-1] == "worker-0-05.jsonl"
    assert sum(path.stat().st_size for path in (tmp_path / "captures" / "svc_1").iterdir()) <= 900
    assert (await ingest.reconcile()).removed == 6 - len(names) > 0


@pytest.mark.parametrize("service_id", ["../x", "", "a/b", "."])
async def test_id_that_is_no_folder_name_leads_nowhere(tmp_path: Path, service_id: str) -> None:
    segment(tmp_path, "01.seg", capture(1, service_id))
    status = await CaptureIngest(tmp_path, 1 << 20).reconcile()
    assert (status.segments, status.records) == (1, 0)
    assert not (tmp_path / "captures").exists()
