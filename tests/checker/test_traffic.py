"""The checks of traffic find what they are for."""

from pathlib import Path
from typing import Any

import pytest

from tests.checker import traffic
from tests.checker.traffic import Generated, Rest

DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"code":"engine_unavailable"}}\n\n'


def record(record_id: str, **members: Any) -> dict[str, Any]:
    return {"record_id": record_id, "outcome": "completed", "prompt_tokens": 9, "completion_tokens": 5, **members}


def test_right_bills_are_right() -> None:
    records = [record("a.1"), record("b.1", outcome="client_cut", completion_tokens=3, tail_tokens=4), record("c.1")]
    engine = {"a": Generated(9, 5), "b": Generated(9, 6)}
    assert list(traffic.bills(records, engine)) == []


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([record("a.1"), record("a.1")], "recorded twice"),
        ([record("a.1"), record("a.2")], "two attempts are billed"),
        ([record("a.1", completion_tokens=4)], "4 tokens billed and 0 declared of 5"),
        ([record("a.1", completion_tokens=6)], "6 tokens billed and 0 declared of 5"),
        ([record("a.1", prompt_tokens=8)], "8 of 9 prompt tokens"),
        ([], "an engine worked on it and it is not billed"),
    ],
)
def test_wrong_bill_is_found(records: list[dict[str, Any]], told: str) -> None:
    assert told in {violation.problem for violation in traffic.bills(records, {"a": Generated(9, 5)})}


@pytest.mark.parametrize(
    ("body", "is_whole", "sound"),
    [
        (b'data: {"a":1}\n\n' + DONE, True, True),
        (b'data: {"a":1}\r\n\r\ndata:[DONE]\r\n\r\n', True, True),
        (b'data: {"a":1}\n\n' + ERROR, False, True),
        (b'data: {"a":1}\n\ndata: {"a', False, True),
        (b'data: {"a":1}\n\n', True, False),
        (b'data: {"a":1}\n\n' + DONE + DONE, True, False),
        (ERROR + DONE, False, False),
        (ERROR, True, False),
        (DONE + b'data: {"a":1}\n\n', True, False),
    ],
)
def test_end_of_a_stream(body: bytes, is_whole: bool, sound: bool) -> None:  # noqa: FBT001 - a table of cases
    assert (list(traffic.stream_end("s", body, is_whole=is_whole)) == []) is sound


def test_canary_elsewhere_is_found(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "svc_1", tmp_path / "svc_2"
    for folder, content in ((mine, b"canary-1"), (theirs, b"canary-2 and canary-1")):
        folder.mkdir()
        (folder / "file").write_bytes(content)
    known, owners = {"ten_1": b"canary-1", "ten_2": b"canary-2"}, {mine: "ten_1", theirs: "ten_2"}
    (violation,) = traffic.canaries([mine / "file", theirs / "file"], known, owners)
    assert violation.subject == str(theirs / "file")


def test_what_is_left_over_is_found() -> None:
    assert list(traffic.at_rest(Rest(0, 0, 20), Rest(0, 0, 24), kept=4)) == []
    assert len(list(traffic.at_rest(Rest(0, 0, 20), Rest(1, 1, 25), kept=4))) == 3
