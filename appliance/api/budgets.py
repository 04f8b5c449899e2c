"""Routes of token budgets. A tenant sees all that bound it, and sets those of its own keys and services."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.idempotency import once
from appliance.api.parameters import IfMatch, expected, versioned
from appliance.api.problems import problems
from appliance.kernel.errors import Conflict, NotFound, StaleVersion
from appliance.kernel.pagination import Page, PageRequest
from appliance.services.errors import ServiceNotFound
from tenants import budgets
from tenants.budget_schemas import Budget, BudgetChange, BudgetKind, NewBudget
from tenants.permissions import Permission
from tenants.work import Work

TAGS = ["Budgets"]


@get("/budgets", permission=Permission.usage_read, tags=TAGS, responses=problems())
async def list_budgets(
    work: NamedDependency[Work],
    page: NamedDependency[PageRequest],
    kind: Annotated[BudgetKind | None, QueryParameter(description="only those of keys, services or tenants")] = None,
    subject: Annotated[str | None, QueryParameter(description="name or id of what they bound")] = None,
) -> Page[Budget]:
    """Token budgets with what was spent of them, the newest first."""
    return await budgets.list_budgets(work, page, kind=kind, subject=subject)


@post(
    "/budgets",
    permission=Permission.budget_write,
    tags=TAGS,
    responses=problems(NotFound, ServiceNotFound, Conflict),
)
async def create_budget(
    request: Request[Any, Any, Any], work: NamedDependency[Work], data: JSONBody[NewBudget]
) -> Response[Budget]:
    """Bound the tokens of a key or a service; the platform's administrators bound tenants, too."""
    find_service = context_of(request).parts.tenancy.find_service
    return await once(request, work, lambda: budgets.create_budget(work, data, find_service))


@get("/budgets/{budget:str}", permission=Permission.usage_read, tags=TAGS, responses=problems(NotFound))
async def get_budget(work: NamedDependency[Work], budget: FromPath[str]) -> Response[Budget]:
    """One budget, with what was spent of it."""
    return versioned(await budgets.get_budget(work, budget))


@patch(
    "/budgets/{budget:str}",
    permission=Permission.budget_write,
    tags=TAGS,
    responses=problems(NotFound, StaleVersion),
)
async def update_budget(
    work: NamedDependency[Work], budget: FromPath[str], data: JSONBody[BudgetChange], if_match: IfMatch = None
) -> Response[Budget]:
    """Set another bound; what was spent stays. A tenant's budget is for the platform to change."""
    row = expected(await budgets.lock_budget(work, budget), if_match)
    return versioned(await budgets.update_budget(work, row, data))


@delete(
    "/budgets/{budget:str}",
    permission=Permission.budget_write,
    tags=TAGS,
    responses=problems(NotFound, StaleVersion),
)
async def delete_budget(work: NamedDependency[Work], budget: FromPath[str], if_match: IfMatch = None) -> None:
    """Lift a budget. A tenant's is for the platform to lift."""
    row = expected(await budgets.lock_budget(work, budget), if_match)
    await budgets.delete_budget(work, row)


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [list_budgets, create_budget, get_budget, update_budget, delete_budget]
