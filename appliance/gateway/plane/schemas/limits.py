"""What keys, services and tenants may use: limits, token budgets and priorities."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Limits(Struct, frozen=True, omit_defaults=True):
    """What a key, a service or a tenant may use on this node, all its workers together; None is no limit.

    The minute slides: what was used in the minute before counts in proportion to what of it is still within the
    last 60 seconds. Tokens are those of prompt and answer.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None


Period = Literal["total", "day", "month"]


class Budget(Struct, frozen=True, omit_defaults=True):
    """A hard bound on tokens in each period (days and months of UTC); `id` is unique over all budgets.

    `spent` is what the database had counted in the period that begins at `spent_since` (Unix seconds): a floor for
    a node whose own count was lost.
    """

    id: str
    tokens: int
    period: Period = "total"
    spent: int = 0
    spent_since: float = 0.0


Priority = Literal["low", "normal", "high"]
