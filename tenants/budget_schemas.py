"""What callers send and get about token budgets."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from tenants.schemas import Input

MOST_TOKENS: Final = 10**15
Tokens = Annotated[int, Meta(ge=0, le=MOST_TOKENS, description="tokens of prompts and answers; 0 lets nothing pass")]


class BudgetPeriod(StrEnum):
    """`total` never begins anew; days and months are those of UTC."""

    total = "total"
    day = "day"
    month = "month"


class BudgetKind(StrEnum):
    """What a budget bounds."""

    key = "key"
    service = "service"
    tenant = "tenant"


class NewBudget(Input, frozen=True):
    """Exactly one of `key`, `service` and `tenant`, by name or id. A tenant's is for the platform to set.

    What was metered in the period before the budget was made counts, too.
    """

    tokens: Tokens
    period: BudgetPeriod = BudgetPeriod.total
    key: str | None = None
    service: str | None = None
    tenant: str | None = None


class BudgetChange(Input, frozen=True):
    tokens: Tokens


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """`spent` of `tokens` were metered in the period that is running; it begins anew at `resets_at` (null: never)."""

    id: str
    tenant_id: str
    kind: BudgetKind
    subject_id: str
    subject_name: str
    period: BudgetPeriod
    tokens: int
    spent: int
    remaining: int
    resets_at: datetime | None
    created_by: str
    created_at: datetime
    version: int
