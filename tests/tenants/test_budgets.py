"""Budgets bound what they are said to, count each record once, and belong to who may set them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.errors import BadInput, Conflict, Forbidden, NotFound
from appliance.kernel.ids import TenantId, new_id
from appliance.kernel.pagination import PageRequest
from tenants import budgets, keys
from tenants.actors import Actor
from tenants.budget_schemas import Budget, BudgetChange, BudgetKind, BudgetPeriod, NewBudget
from tenants.budgets import Subject
from tenants.permissions import Permission, Role
from tenants.schemas import NewKey
from tenants.scope import TenantScope
from tenants.usage import insert_rollups, insert_usage
from tests.tenants.conftest import NewTenantOf, WorkAs, acting
from tests.tenants.support import actions, all_services

SERVICE = new_id("svc")


async def find_service(_: AsyncSession, scope: TenantScope, name: str) -> Subject:
    if name != "chat":
        raise NotFound(name)
    return Subject(BudgetKind.service, SERVICE, name, scope.one())


def record(tenant_id: str, key_id: str, tokens: int, at: datetime, **members: Any) -> dict[str, Any]:
    return {
        "record_id": new_id("rec"),
        "request_id": "req_1",
        "at": at,
        "tenant_id": tenant_id,
        "key_id": key_id,
        "service_id": SERVICE,
        "deployment_id": "dep_1",
        "replica_id": "rpl_1",
        "route": "POST /v1/chat/completions",
        "model": "chat",
        "status": 200,
        "outcome": "completed",
        "prompt_tokens": tokens // 2,
        "completion_tokens": tokens - tokens // 2,
        **members,
    }


class Books:
    """A tenant with the key `ci`, and what is metered of it."""

    def __init__(self, work_as: WorkAs, database: Database, clock: ManualClock, tenant_id: TenantId) -> None:
        self.work_as, self.database, self.clock, self.tenant_id = work_as, database, clock, tenant_id
        self.key_id = ""

    async def open(self) -> None:
        async with self.work_as(acting(Role.tenant_admin, self.tenant_id)) as work:
            self.key_id = (await keys.create_key(work, NewKey(name="ci"), all_services)).key.id

    async def create(self, actor: Actor | None = None, **members: Any) -> Budget:
        async with self.work_as(actor or acting(Role.platform_admin, self.tenant_id)) as work:
            return await budgets.create_budget(work, NewBudget(**members), find_service)

    async def meter(self, *records: dict[str, Any]) -> int:
        async with self.database.write() as session:
            return await insert_usage(session, records)

    async def use(self, tokens: int, at: datetime | None = None) -> None:
        assert await self.meter(record(self.tenant_id, self.key_id, tokens, at or self.clock.now())) == 1

    async def spent(self, budget: Budget) -> int:
        async with self.work_as(acting(Role.viewer, self.tenant_id)) as work:
            return (await budgets.get_budget(work, budget.id)).spent


@pytest.fixture
async def books(work_as: WorkAs, database: Database, clock: ManualClock, acme: TenantId) -> Books:
    books = Books(work_as, database, clock, acme)
    await books.open()
    return books


async def test_each_kind_counts_what_is_its_own(books: Books, new_tenant: NewTenantOf) -> None:
    other = await new_tenant("other")
    made = [
        await books.create(key="ci", tokens=100),
        await books.create(service="chat", tokens=100),
        await books.create(tenant="acme", tokens=100),
    ]
    assert [budget.kind for budget in made] == [BudgetKind.key, BudgetKind.service, BudgetKind.tenant]
    now = books.clock.now()
    await books.meter(
        record(books.tenant_id, books.key_id, 7, now),
        record(books.tenant_id, "key_other", 20, now),
        record(other, "key_others", 300, now),
        record(books.tenant_id, books.key_id, 1000, now, service_id="svc_other"),
    )
    assert [await books.spent(budget) for budget in made] == [1007, 327, 1027]


async def test_a_record_counts_once_however_often_it_comes(books: Books) -> None:
    budget = await books.create(key="ci", tokens=100)
    one = record(books.tenant_id, books.key_id, 9, books.clock.now())
    assert [await books.meter(one), await books.meter(one, one)] == [1, 0]
    assert await books.spent(budget) == 9


async def test_what_was_rolled_up_is_charged_too(books: Books) -> None:
    budget = await books.create(key="ci", tokens=100)
    sums = dict.fromkeys(("requests", "failed", "cut", "estimated", "tail_tokens", "bytes_in", "bytes_out"), 1)
    rolled = record(books.tenant_id, books.key_id, 30, books.clock.now()) | sums
    rolled |= {"span_s": 60, "duration_ms": 1.0, "queue_ms": 0.0}
    for _ in range(2):
        async with books.database.write() as session:
            await insert_rollups(session, [rolled])
    assert await books.spent(budget) == 30
    assert (await books.create(key="ci", tokens=100, period=BudgetPeriod.day)).spent == 30


async def test_what_was_metered_before_counts(books: Books) -> None:
    """And nothing is missed or doubled that is metered while the budget is made."""
    await books.use(50, books.clock.now() - timedelta(days=40))
    await books.use(5)
    outcomes = await asyncio.gather(
        books.create(key="ci", tokens=100),
        *(books.use(1) for _ in range(8)),
        books.create(key="ci", tokens=100, period=BudgetPeriod.day),
        *(books.use(1) for _ in range(8)),
    )
    total, day = (outcome for outcome in outcomes if isinstance(outcome, Budget))
    assert await books.spent(total) == 71
    assert await books.spent(day) == 21


async def test_periods_begin_anew_in_utc(books: Books) -> None:
    books.clock.advance((datetime(2030, 1, 30, 23, 59, tzinfo=UTC) - books.clock.now()).total_seconds())
    total, day, month = [await books.create(key="ci", tokens=100, period=period) for period in BudgetPeriod]
    assert day.resets_at == datetime(2030, 1, 31, tzinfo=UTC)
    assert month.resets_at == datetime(2030, 2, 1, tzinfo=UTC)
    assert total.resets_at is None
    yesterday = books.clock.now()
    await books.use(10)
    books.clock.advance(120)
    assert [await books.spent(budget) for budget in (day, month, total)] == [0, 10, 10]
    await books.use(4)
    await books.use(3, yesterday)
    assert [await books.spent(budget) for budget in (day, month, total)] == [4, 17, 17]
    books.clock.advance(86400)
    await books.use(1)
    assert [await books.spent(budget) for budget in (day, month, total)] == [1, 1, 18]


async def test_a_change_keeps_what_was_spent(books: Books, database: Database) -> None:
    budget = await books.create(key="ci", tokens=100)
    await books.use(60)
    async with books.work_as(acting(Role.tenant_admin, books.tenant_id)) as work:
        changed = await budgets.update_budget(work, await budgets.lock_budget(work, budget.id), BudgetChange(tokens=50))
    assert (changed.spent, changed.remaining, changed.version) == (60, 0, 2)
    async with books.work_as(acting(Role.tenant_admin, books.tenant_id)) as work:
        await budgets.delete_budget(work, await budgets.lock_budget(work, budget.id))
    done = await actions(database)
    assert [action for action in done if action.startswith("budget")] == [
        "budget.created",
        "budget.updated",
        "budget.deleted",
    ]


async def test_one_budget_for_each_period(books: Books) -> None:
    outcomes = await asyncio.gather(
        *(books.create(key="ci", tokens=100 + number) for number in range(5)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Budget) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 4
    await books.create(key="ci", tokens=100, period=BudgetPeriod.month)


async def test_exactly_one_subject(books: Books) -> None:
    for subjects in ({}, {"key": "ci", "service": "chat"}):
        with pytest.raises(BadInput, match="exactly one of"):
            await books.create(tokens=1, **subjects)


async def test_a_key_that_can_make_others_is_not_bounded(books: Books) -> None:
    async with books.work_as(acting(Role.tenant_admin, books.tenant_id)) as work:
        scopes = [Permission.inference, Permission.key_write]
        await keys.create_key(work, NewKey(name="maker", scopes=scopes), all_services)
    with pytest.raises(BadInput, match="make another without a budget") as caught:
        await books.create(key="maker", tokens=1)
    assert caught.value.errors[0].pointer == "/key"


async def test_a_tenant_does_not_touch_its_own_budget(books: Books) -> None:
    mine = acting(Role.tenant_admin, books.tenant_id)
    with pytest.raises(Forbidden):
        await books.create(mine, tenant="acme", tokens=10**9)
    budget = await books.create(tenant="acme", tokens=100)
    async with books.work_as(mine) as work:
        assert (await budgets.get_budget(work, budget.id)).tokens == 100
        with pytest.raises(Forbidden):
            await budgets.lock_budget(work, budget.id)


async def test_budgets_of_other_tenants_are_not_there(books: Books, new_tenant: NewTenantOf) -> None:
    budget = await books.create(key="ci", tokens=100)
    stranger = acting(Role.platform_admin, await new_tenant("other"))
    async with books.work_as(stranger) as work:
        assert (await budgets.list_budgets(work, PageRequest(), kind=None, subject=None)).items == []
        for operation in (budgets.get_budget, budgets.lock_budget):
            with pytest.raises(NotFound):
                await operation(work, budget.id)
    for subject in ({"key": "ci"}, {"key": books.key_id}, {"tenant": "acme"}, {"tenant": books.tenant_id}):
        with pytest.raises(NotFound):
            await books.create(stranger, tokens=1, **subject)


async def test_lists_are_filtered_and_paged(books: Books) -> None:
    made = [await books.create(key="ci", tokens=1, period=period) for period in BudgetPeriod]
    of_service = await books.create(service="chat", tokens=1)
    async with books.work_as(acting(Role.viewer, books.tenant_id)) as work:
        page = await budgets.list_budgets(work, PageRequest(limit=2), kind=BudgetKind.key, subject=None)
        rest = await budgets.list_budgets(
            work, PageRequest(limit=2, cursor=page.next_cursor), kind=BudgetKind.key, subject=None
        )
        assert {budget.id for budget in (*page.items, *rest.items)} == {budget.id for budget in made}
        found = await budgets.list_budgets(work, PageRequest(), kind=None, subject="chat")
        assert [budget.id for budget in found.items] == [of_service.id]


async def test_a_deleted_key_leaves_no_budget(books: Books) -> None:
    await books.create(key="ci", tokens=1)
    async with books.work_as(acting(Role.tenant_admin, books.tenant_id)) as work:
        await keys.revoke_key(work, "ci")
        await keys.delete_key(work, "ci")
        assert (await budgets.list_budgets(work, PageRequest(), kind=None, subject=None)).items == []
