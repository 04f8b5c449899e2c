"""Replicas that fail get no requests for a while: judged by live traffic alone, by each worker for itself.

What counts: no connection (at once, since nobody can be served there), and `IN_A_ROW` answers in a row that were an
error of the engine (5xx, but not 503: being saturated is not being unready), a loss before the first byte, or silence
until the first byte's deadline. A replica is ejected for `FIRST_S`, twice as long each further time up to `LONGEST_S`,
a fifth more or less; afterwards it is tried by one request at a time, and returns with the first good answer.

Errors may come from what is asked rather than from who is asked. So for anything but a failed connection at most half
of a deployment's replicas are ejected, hence never the only one. Where every replica is ejected, requests are tried
all the same (see `balance`).
"""

from __future__ import annotations

import random
from typing import Final, Literal, Protocol

from appliance.gateway.plane.backends import Backends, Replica
from appliance.gateway.plane.log import Log

Reason = Literal["connect", "error", "reset", "timeout"]

IN_A_ROW: Final = 3
FIRST_S: Final = 1.0
LONGEST_S: Final = 30.0
QUIET_S: Final = 60.0
"""After this long without an ejection the next is short again."""
_JITTER: Final = 0.2
_SATURATED: Final = 503


class Context(Protocol):
    """What is needed of a worker's `Context`. `now` is the loop's clock."""

    @property
    def backends(self) -> Backends: ...

    @property
    def log(self) -> Log: ...

    def now(self) -> float: ...


def answered(context: Context, replica: Replica, status: int) -> None:
    """The head of an answer came. Need not be told of a good one while the replica is not `troubled`."""
    if status < 500:
        if replica.down_until:
            context.log.info("replica.returned", replica=replica.id, reason=replica.down_reason)
            replica.returned_at = context.now()
        replica.troubled = False
        replica.down_until = 0.0
        replica.failures = 0
    elif status != _SATURATED or replica.down_until:
        failed(context, replica, "error")


def failed(context: Context, replica: Replica, reason: Reason) -> None:
    """It could not be connected to, or did not answer, or with an error."""
    now = context.now()
    replica.failures += 1
    replica.troubled = True
    if replica.down_until > now:
        return  # what was in flight when it was ejected says nothing new
    is_settled = reason == "connect" or replica.down_until  # a trial that failed is no first failure
    if not is_settled and (replica.failures < IN_A_ROW or not _may_eject(context, replica)):
        return
    _eject(context, replica, reason, now)


def _may_eject(context: Context, replica: Replica) -> bool:
    siblings = context.backends.of_deployment(replica.deployment_id)
    ejected = sum(1 for each in siblings if each.down_until)
    return 2 * (ejected + 1) <= len(siblings)


def _eject(context: Context, replica: Replica, reason: Reason, now: float) -> None:
    if not replica.down_until and now - replica.returned_at > QUIET_S:
        replica.ejections = 0
    replica.ejections += 1
    seconds = duration(replica.ejections) * random.uniform(1 - _JITTER, 1 + _JITTER)
    replica.down_until = now + seconds
    replica.down_reason = reason
    replica.standing = replica.in_flight
    replica.close_idle()
    counted = (replica.deployment_id, reason)
    context.backends.ejections[counted] = context.backends.ejections.get(counted, 0) + 1
    context.log.warning(
        "replica.ejected", replica=replica.id, reason=reason, failures=replica.failures, seconds=round(seconds, 2)
    )


def duration(times: int) -> float:
    """Seconds, before the jitter, of the n-th ejection in a row."""
    return min(FIRST_S * 2.0 ** min(times - 1, 10), LONGEST_S)
