"""I4, I5, I11 and I12 of the gateway's traffic, from its files, its processes and what clients received.

Written from the documented formats: the spool's frames are `<u32 length><u32 crc32><msgpack>`, a worker's status has
its counts of requests and connections as u32 at 48 and 60 and entries of 64 bytes from 256 on.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.checker.violations import Violation

Record = dict[str, Any]
_LINE_END: Final = rb"(?:\r\n|\n|\r)"
_EVENT_END: Final = re.compile(_LINE_END + _LINE_END)


@dataclass(frozen=True, slots=True)
class Generated:
    """What an engine's own books say of one request that it was sent."""

    prompt: int
    completion: int


def usage_records(spool: Path) -> list[Record]:
    """Every usage record below `gateway/spool`, whoever owns its segment now."""
    segments = [path for path in spool.glob("worker-*/*") if path.suffix in (".seg", ".taken", ".open")]
    return [record for path in sorted(segments) for record in _frames(path) if record.get("type") == "usage"]


def _frames(path: Path) -> Iterator[Record]:
    content = path.read_bytes()
    at = 0
    while at + 8 <= len(content):
        length, checksum = struct.unpack_from("<II", content, at)
        payload = content[at + 8 : at + 8 + length]
        if len(payload) < length or zlib.crc32(payload) != checksum:
            return
        yield msgspec.msgpack.decode(payload)
        at += 8 + length


def bills(records: Iterable[Record], engine: Mapping[str, Generated]) -> Iterator[Violation]:
    """I4: each request that an engine was sent is billed once, for what it generated or less, and the rest declared.

    `engine` is by the id that the engine was told, which is a record's id up to its attempt.
    """
    seen: dict[str, Record] = {}
    for record in records:
        if record["record_id"] in seen:
            yield Violation("I4", record["record_id"], "recorded twice")
        seen[record["record_id"]] = record
    billed: dict[str, Record] = {}
    for record_id, record in seen.items():
        request = record_id.partition(".")[0]
        if record["outcome"] != "refused" and request in billed:
            yield Violation("I4", request, "two attempts are billed")
        billed[request] = record
        if request in engine:
            yield from _bill(record, engine[request])
    for request in engine.keys() - billed.keys():
        yield Violation("I4", request, "an engine worked on it and it is not billed")


def _bill(record: Record, generated: Generated) -> Iterator[Violation]:
    completion, tail = record.get("completion_tokens", 0), record.get("tail_tokens", 0)
    if not completion <= generated.completion <= completion + tail:
        told = f"{completion} tokens billed and {tail} declared of {generated.completion}"
        yield Violation("I4", record["record_id"], told)
    if not record.get("estimated", False) and record.get("prompt_tokens", 0) != generated.prompt:
        yield Violation(
            "I4", record["record_id"], f"{record.get('prompt_tokens', 0)} of {generated.prompt} prompt tokens"
        )


def canaries(files: Iterable[Path], known: Mapping[str, bytes], owners: Mapping[Path, str]) -> Iterator[Violation]:
    """I5: a tenant's canary (`known`, by tenant) stands only in files below a folder of its own (`owners`)."""
    for path in files:
        content = path.read_bytes()
        owner = next((tenant for folder, tenant in owners.items() if folder in path.parents), None)
        for tenant, canary in known.items():
            if tenant != owner and canary in content:
                yield Violation("I5", str(path), f"holds the canary of {tenant}")


@dataclass(frozen=True, slots=True)
class Rest:
    """What a worker holds: requests, connections, descriptors."""

    in_flight: int
    connections: int
    descriptors: int


def rest_of(status: Path) -> Rest:
    """Of the worker whose status that is."""
    content = status.read_bytes()
    if content[:8] != b"APSTAT01":
        raise ValueError(f"{status} is no status")
    (pid,) = struct.unpack_from("=Q", content, 16)
    in_flight, entries, _, connections = struct.unpack_from("=IIII", content, 48)
    counted = sum(struct.unpack_from("=I", content, 256 + 64 * number + 48)[0] for number in range(entries))
    return Rest(max(in_flight, counted), connections, len(os.listdir(f"/proc/{pid}/fd")))  # noqa: PTH208 - names are all


def at_rest(before: Rest, after: Rest, *, kept: int) -> Iterator[Violation]:
    """I11: nothing is left over; at most `kept` descriptors more, for connections to engines that are kept."""
    for name, left in (("in flight", after.in_flight), ("connections", after.connections)):
        if left:
            yield Violation("I11", name, f"{left} are left")
    if after.descriptors > before.descriptors + kept:
        yield Violation("I11", "descriptors", f"{after.descriptors}, {before.descriptors} before")


def stream_end(name: str, body: bytes, *, is_whole: bool) -> Iterator[Violation]:
    """I12: a stream ends with one `[DONE]`, or one error event, or abruptly. `is_whole`: its framing did end."""
    events = [_data(event) for event in _EVENT_END.split(body)]
    done = [number for number, event in enumerate(events) if event == b"[DONE]"]
    errors = [number for number, event in enumerate(events) if event.startswith(b'{"error"')]
    last = max((number for number, event in enumerate(events) if event), default=-1)
    if len(done) + len(errors) > 1:
        yield Violation("I12", name, f"{len(done)} ends and {len(errors)} errors")
    elif (done or errors) and last not in (*done, *errors):
        yield Violation("I12", name, "something follows the end")
    if is_whole and not done:
        yield Violation("I12", name, "the framing ends as if the stream were whole, without a [DONE]")
    if errors and is_whole:
        yield Violation("I12", name, "the framing ends as if the stream were whole, after an error")


def _data(event: bytes) -> bytes:
    lines = [line[5:].removeprefix(b" ") for line in re.split(_LINE_END, event) if line.startswith(b"data:")]
    return b"\n".join(lines)
