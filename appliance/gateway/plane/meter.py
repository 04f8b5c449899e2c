"""From what was seen of a request to its usage record, whether it ended, was cut, or its worker was killed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from appliance.gateway.plane.frames import OPEN_SUFFIX, SEALED_SUFFIX, encode_payload, read_frames
from appliance.gateway.plane.limits.recovery import charge_lost, last_charged
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.paths import spool_directory
from appliance.gateway.plane.schemas.records import SpoolRecord, UsageRecord
from appliance.gateway.plane.slots import (
    SLOTS,
    Ending,
    LeftOver,
    Progress,
    RequestIdentity,
    end_left_over,
    read_left_overs,
)
from appliance.gateway.plane.spool import seal_left_overs
from appliance.kernel.files import write_atomic

ABORT_S: Final = 1.0
"""The longest time between our abort and the engine's last token."""

_UNKNOWN_RATE: Final = 1000.0
"""Tokens per second and choice that no engine exceeds; used while a stream's own rate is not known."""
_RATE_MARGIN: Final = 2.0
_RATE_SAMPLE: Final = 8
"""Tokens before a stream's own rate is trusted."""
_BYTES_PER_TOKEN: Final = 4

_PROMPT_IS_DUE: Final = frozenset({"completed", "client_cut", "timed_out", "worker_lost"})
"""A request that the engine failed or refused is not billed an estimate of its prompt."""

_NOT_CUT: Final = ("completed", "refused")

_RECOVERED_SUFFIX: Final = ".recovered"

encode_record: Final[Callable[[SpoolRecord], bytes]] = msgspec.msgpack.Encoder().encode


def estimate_tokens(text_bytes: int) -> int:
    """For a prompt whose engine never told its count: at four bytes a token."""
    return -(-text_bytes // _BYTES_PER_TOKEN)


def tail_bound(identity: RequestIdentity, progress: Progress, until: float) -> int:
    """The most tokens that the engine may have generated beyond those counted, if it was cut at `until`.

    The rate of the stream so far (doubled) or, before there is one, a rate that no engine exceeds, over the time
    since the last chunk and the engine's time to notice; two chunks more for what was on its way; never more than
    the request allows.
    """
    since = max(until - (progress.last or progress.started), 0.0) + ABORT_S
    streamed_s = progress.last - progress.first
    if progress.completion_tokens >= _RATE_SAMPLE and streamed_s > 0:
        rate = _RATE_MARGIN * progress.completion_tokens / streamed_s
    else:
        rate = _UNKNOWN_RATE * identity.choices
    bound = math.ceil(since * rate) + 2 * max(progress.largest_chunk, identity.choices)
    if identity.token_limit:
        bound = min(bound, max(identity.token_limit - progress.completion_tokens, 0))
    return bound


def billed(identity: RequestIdentity, progress: Progress, ending: Ending) -> tuple[int, int]:
    """Prompt and completion tokens. The counts are the engine's own if it told its prompt's (each of its counts is
    cumulative); else they are estimates. What has not reached an engine has none.

    An engine's image may be anybody's, and its word is charged to the caller's budget: it is believed as far as it can
    be true. No prompt is longer than the context, no answer than the context or than was allowed.
    """
    prompt, completion = progress.prompt_tokens, progress.completion_tokens
    context = identity.context
    if context:
        prompt = min(prompt, context)
        completion = min(completion, context)
    limit = identity.token_limit
    if limit and completion > limit:
        completion = limit
    if prompt > 0:
        return prompt, completion
    due = ending.reached and ending.outcome in _PROMPT_IS_DUE
    return identity.prompt_estimate if due else 0, completion


def usage_record(identity: RequestIdentity, progress: Progress, ending: Ending) -> UsageRecord:
    status, outcome, until, reached, queue_ms, inter_token_count, inter_token_ms = ending
    prompt, completion = billed(identity, progress, ending)
    cut = reached and outcome not in _NOT_CUT
    counted = progress.prompt_tokens > 0
    started, first = progress.started, progress.first
    return UsageRecord(  # by position, in the order of the schema: twice as fast
        identity.record_id,
        identity.request_id,
        identity.at,
        identity.tenant_id,
        identity.key_id,
        identity.service_id,
        identity.deployment_id,
        identity.replica_id,
        identity.route,
        identity.model,
        status,
        outcome,
        prompt,
        completion,
        reached and not counted and identity.prompt_estimate > 0 and outcome != "refused",
        tail_bound(identity, progress, until) if cut else 0,
        identity.stream,
        identity.bytes_in,
        progress.bytes_out,
        round(queue_ms, 3),
        round(1000 * (first - started), 3) if first else None,
        round(1000 * (until - started), 3),
        inter_token_count,
        round(inter_token_ms, 3),
    )


def recover(home: Path, index: int, log: Log) -> int:
    """Turn what a dead worker left in its slots into records of its spool; how many there were.

    Each once, also if this is killed at any point and repeated: what the worker had written already is left out,
    and what is recovered becomes a segment only when the slots are gone. The worker must be gone for certain.
    """
    directory = spool_directory(home, index)
    path = directory / SLOTS
    _finish_recovery(directory)
    found = []
    if path.exists():
        now = time.monotonic()
        written = _ids_in_open_segments(directory)
        left_overs = [left for left in read_left_overs(path) if left.identity.record_id not in written]
        last = last_charged(home, index)
        left_overs.sort(key=lambda left: left.identity.charge != last)  # first, while it is known that it was charged
        found = [encode_payload(_recovered(home, index, left, now)) for left in left_overs]
        if found:
            write_atomic(directory / f"{time.time_ns() // 1000:020d}{_RECOVERED_SUFFIX}", b"".join(found), mode=0o640)
        _finish_recovery(directory)
        path.unlink(missing_ok=True)
    seal_left_overs(directory)
    if found:
        log.warning("usage.recovered", worker=index, requests=len(found))
    return len(found)


def _finish_recovery(directory: Path) -> None:
    """Once a recovered segment is whole, the slots that it came from go, and then it is sealed."""
    for recovered in sorted(directory.glob(f"*{_RECOVERED_SUFFIX}")):
        (directory / SLOTS).unlink(missing_ok=True)
        recovered.rename(recovered.with_suffix(SEALED_SUFFIX))


def _ids_in_open_segments(directory: Path) -> set[str]:
    """A slot is freed right after its record was written, so one that was not has its record in the last segment."""
    segments = directory.glob(f"*{OPEN_SUFFIX}")
    return {record.record_id for segment in segments for record, _ in read_frames(segment)}


def _recovered(home: Path, index: int, left: LeftOver, now: float) -> bytes:
    """The final record of a request, whether it had ended or not."""
    if left.record is not None:
        return left.record
    ended = _lost(left, now) if left.ending is None else usage_record(left.identity, left.progress, left.ending)
    record = encode_record(ended)
    if not left.charged:  # its record is kept in its slot then, so that it is not charged again
        charge_lost(home, index, left.identity, ended.prompt_tokens + ended.completion_tokens)
        end_left_over(spool_directory(home, index) / SLOTS, left.slot, record)
    return record


def _lost(left: LeftOver, now: float) -> UsageRecord:
    # After a reboot the monotonic clock starts again: then the times tell nothing.
    until = now if now >= left.progress.started else left.progress.last or left.progress.started
    return usage_record(left.identity, left.progress, Ending(0, "worker_lost", until))
