"""Refusals of requests that cannot be served in time.

429 where the tenant's own waiting requests are the reason: sending fewer helps. 503 where the service has no room
whoever asks. `Retry-After` is the time that what waits now will take at the pace at which it is being served.
"""

from __future__ import annotations

from math import ceil
from typing import Final

from appliance.gateway.plane.errors import SERVER_ERROR, Refusal

UNKNOWN_S: Final = 2
"""`Retry-After` while nothing is known of the service's pace."""
LONGEST_S: Final = 300

_REQUESTS: Final = "requests"


def own_queue_full(waiting: int, seconds: float | None) -> Refusal:
    """`waiting`: the tenant's requests; `seconds` that they will take, if that is known."""
    return Refusal(
        429,
        "queue_full",
        f"{waiting} requests of your organisation wait for this service already; send fewer at once.",
        kind=_REQUESTS,
        headers=_retry_after(seconds),
    )


def own_queue_too_long(waiting: int, seconds: float, most_s: float) -> Refusal:
    return Refusal(
        429,
        "queue_full",
        f"{waiting} requests of your organisation wait for this service, so one more would wait about "
        f"{ceil(seconds)} s, longer than the {most_s:g} s that it may; send fewer at once.",
        kind=_REQUESTS,
        headers=_retry_after(seconds),
    )


def too_busy(seconds: float | None, most_s: float) -> Refusal:
    expected = f" (about {ceil(seconds)} s)" if seconds is not None else ""
    return Refusal(
        503,
        "overloaded",
        f"All replicas of this service are busy, and a request cannot be begun{expected} within {most_s:g} s; try "
        "again later.",
        kind=SERVER_ERROR,
        headers=_retry_after(seconds),
    )


def waited_too_long(waited_s: float, seconds: float | None) -> Refusal:
    return Refusal(
        503,
        "overloaded",
        f"All replicas of this service were busy for {waited_s:.0f} s; try again later.",
        kind=SERVER_ERROR,
        headers=_retry_after(seconds),
    )


def not_awake(waited_s: float) -> Refusal:
    return Refusal(
        503,
        "service_not_ready",
        f"This service was asleep and has not started within {waited_s:.0f} s; it may still be starting, try again "
        "later.",
        kind=SERVER_ERROR,
        headers=_retry_after(None),
    )


def removed() -> Refusal:
    return Refusal(
        404, "service_removed", "This service was removed, or closed to you, while the request waited for a replica."
    )


def _retry_after(seconds: float | None) -> bytes:
    whole = UNKNOWN_S if seconds is None else min(max(ceil(seconds), 1), LONGEST_S)
    return b"retry-after: %d\r\n" % whole
