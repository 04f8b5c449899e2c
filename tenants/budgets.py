"""Hard token budgets of keys, services and tenants.

What was spent is kept beside the bound and grows in the transaction that inserts the usage (`charge`): reading it
costs nothing, however much usage there is, and each record counts once. A gateway counts by itself and takes what
the snapshot tells as a floor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, assert_never

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import BadInput, Conflict, FieldError
from appliance.kernel.ids import new_id
from appliance.kernel.pagination import Page, PageRequest
from tenants.budget_schemas import Budget, BudgetChange, BudgetKind, BudgetPeriod, NewBudget
from tenants.budget_tables import BudgetRow
from tenants.permissions import Permission
from tenants.queries import budgets as queries
from tenants.queries import keys as key_queries
from tenants.queries import tenancy as tenant_queries
from tenants.scope import TenantScope
from tenants.tenancy import SNAPSHOT
from tenants.work import Work

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a budget bounds, and whose it is."""

    kind: BudgetKind
    id: str
    name: str
    tenant_id: str


FindService = Callable[[AsyncSession, TenantScope, str], Awaitable[Subject]]
"""The service of this name or id within the scope, locked; the services' domain brings it. `NotFound` and the like."""


async def create_budget(work: Work, new: NewBudget, find_service: FindService) -> Budget:
    """Bound a key, a service or a tenant; `Conflict` where it has a budget for the period already."""
    subject = await _subject(work, new, find_service)
    start = start_of(new.period, work.now())
    row = BudgetRow(
        id=new_id("bdg"),
        tenant_id=subject.tenant_id,
        kind=subject.kind.value,
        subject_id=subject.id,
        subject_name=subject.name,
        period=new.period.value,
        tokens=new.tokens,
        spent=await queries.metered(work.session, subject.kind, subject.id, start),
        period_start=start,
        version=1,
        created_by=work.actor.id,
        created_at=work.now(),
    )
    work.session.add(row)
    try:
        await work.session.flush()
    except IntegrityError as error:
        raise Conflict(
            f"{subject.kind.value} {subject.name!r} has a budget for the period {new.period.value!r} already; change "
            f"that one"
        ) from error
    _record(work, row, "budget.created")
    return shown(row, work.now())


async def _subject(work: Work, new: NewBudget, find_service: FindService) -> Subject:
    named = [(kind, name) for kind in BudgetKind if (name := getattr(new, kind.value)) is not None]
    if len(named) != 1:
        raise BadInput("say what the budget is for: exactly one of key, service and tenant")
    ((kind, name),) = named
    match kind:
        case BudgetKind.key:
            return await _key(work, name)
        case BudgetKind.service:
            return await find_service(work.session, work.scope, name)
        case BudgetKind.tenant:
            work.actor.require(Permission.platform_write)
            tenant = await tenant_queries.lock_tenant(work.session, work.scope, name)
            return Subject(kind, tenant.id, tenant.name, tenant.id)
        case _:
            assert_never(kind)


async def _key(work: Work, name: str) -> Subject:
    key = await key_queries.lock_key(work.session, work.scope, name)
    if key.scopes != [Permission.inference.value]:
        wrong = f"key {key.name!r} can do more than inference, so it could make another without a budget"
        raise BadInput(f"{wrong}; bound a key that holds 'inference' alone", errors=[FieldError("/key", wrong)])
    return Subject(BudgetKind.key, key.id, key.name, key.tenant_id or "")


async def list_budgets(work: Work, page: PageRequest, *, kind: BudgetKind | None, subject: str | None) -> Page[Budget]:
    rows = await queries.list_budgets(work.session, work.scope, page, kind=kind, subject=subject)
    return page.page([shown(row, work.now()) for row in rows], [row.id for row in rows])


async def get_budget(work: Work, budget_id: str) -> Budget:
    return shown(await queries.find_budget(work.session, work.scope, budget_id), work.now())


async def lock_budget(work: Work, budget_id: str) -> BudgetRow:
    """The row to compare an ETag with and to change; `Forbidden` for a tenant's, unless for the platform."""
    row = await queries.lock_budget(work.session, work.scope, budget_id)
    if row.kind == BudgetKind.tenant:
        work.actor.require(Permission.platform_write)
    return row


async def update_budget(work: Work, row: BudgetRow, change: BudgetChange) -> Budget:
    """Set another bound; what was spent stays."""
    row.tokens = change.tokens
    row.version += 1
    _record(work, row, "budget.updated")
    return shown(row, work.now())


async def delete_budget(work: Work, row: BudgetRow) -> None:
    await work.session.delete(row)
    _record(work, row, "budget.deleted")


async def forget(session: AsyncSession, subject_id: str) -> None:
    """Remove the budgets of a key or service that is being removed."""
    await queries.delete_budgets_of(session, subject_id)


async def charge(session: AsyncSession, records: Sequence[Mapping[str, Any]]) -> None:
    """Count usage that was inserted in this transaction: `at` an instant, `key_id`, `service_id`, `tenant_id`."""
    spent: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for record in records:
        tokens = record["prompt_tokens"] + record["completion_tokens"]
        for subject_id in (record["key_id"], record["service_id"], record["tenant_id"]):
            spent[subject_id].append((record["at"], tokens))
    if spent:
        for row in await queries.lock_budgets_of(session, spent.keys()):
            _add(row, spent[row.subject_id])
        await session.flush()


def _add(row: BudgetRow, spent: Sequence[tuple[datetime, int]]) -> None:
    """Only what lies in the latest period that anything was metered in counts."""
    period = BudgetPeriod(row.period)
    by_start = [(start_of(period, at), tokens) for at, tokens in spent]
    latest = max(row.period_start, *(start for start, _ in by_start))
    before = row.spent if row.period_start == latest else 0
    row.period_start, row.spent = latest, before + sum(tokens for start, tokens in by_start if start == latest)


def start_of(period: BudgetPeriod, at: datetime) -> datetime:
    """When the period that `at` lies in began."""
    match period:
        case BudgetPeriod.total:
            return _EPOCH
        case BudgetPeriod.day:
            return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        case BudgetPeriod.month:
            return at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        case _:
            assert_never(period)


def resets_at(period: BudgetPeriod, now: datetime) -> datetime | None:
    """When the next period begins."""
    start = start_of(period, now)
    match period:
        case BudgetPeriod.total:
            return None
        case BudgetPeriod.day:
            return start + timedelta(days=1)
        case BudgetPeriod.month:
            return start_of(period, start + timedelta(days=31))
        case _:
            assert_never(period)


def shown(row: BudgetRow, now: datetime) -> Budget:
    period = BudgetPeriod(row.period)
    spent = row.spent if row.period_start >= start_of(period, now) else 0
    return Budget(
        id=row.id,
        tenant_id=row.tenant_id,
        kind=BudgetKind(row.kind),
        subject_id=row.subject_id,
        subject_name=row.subject_name,
        period=period,
        tokens=row.tokens,
        spent=spent,
        remaining=max(row.tokens - spent, 0),
        resets_at=resets_at(period, now),
        created_by=row.created_by,
        created_at=row.created_at,
        version=row.version,
    )


def _record(work: Work, row: BudgetRow, action: str) -> None:
    detail = {"kind": row.kind, "name": row.subject_name, "period": row.period, "tokens": row.tokens}
    work.record(action, "budget", row.id, tenant_id=row.tenant_id, detail=detail)
    work.wake(SNAPSHOT)
