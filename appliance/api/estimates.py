"""The route that estimates how much device memory a model version takes."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from litestar import Request, get
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, QueryParameter
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.problems import problems
from appliance.models import queries
from appliance.models.errors import ModelNotFound, VersionNotFound, VersionNotReady
from appliance.models.estimation import estimate_facts, read_facts
from appliance.models.states import VersionAction, VersionState, can
from appliance.services.corrections import corrections_of, family_of
from appliance.services.estimating import ModelEstimate, model_estimate
from appliance.services.sizing import guide_of
from gpu.estimate.errors import EstimateImpossible
from gpu.estimate.estimate import Workload
from gpu.queries import device_kinds
from gpu.tables import PoolRow
from tenants import entitlements
from tenants.grant_schemas import GrantKind
from tenants.permissions import Permission
from tenants.work import Work

TAGS = ["Models"]
Context = Annotated[int, QueryParameter(ge=1, le=1 << 24, description="tokens of one request with its answer")]
Concurrency = Annotated[int, QueryParameter(ge=1, le=1 << 16, description="requests at the same time")]
Devices = Annotated[int, QueryParameter(ge=1, le=64, description="over which the model is split")]
Cache = Annotated[Literal["auto", "fp8"], QueryParameter(description="precision of the cache of keys and values")]
WeightBytes = Annotated[int | None, QueryParameter(ge=1, description="on one device, where the files do not tell")]
Runtime = Annotated[str | None, QueryParameter(description="whose engines' reports correct the estimate")]
PerToken = Annotated[int | None, QueryParameter(ge=1, description="of one device, where the files do not tell")]


async def provide_workload(
    context: Context,
    concurrency: Concurrency = 1,
    devices: Devices = 1,
    cache: Cache = "auto",
    weight_bytes: WeightBytes = None,
    kv_bytes_per_token: PerToken = None,
) -> Workload:
    return Workload(
        context=context,
        concurrency=concurrency,
        ranks=devices,
        kv_element_bytes=1 if cache == "fp8" else 2,
        weight_bytes=weight_bytes,
        kv_bytes_per_token=kv_bytes_per_token,
    )


@get(
    "/models/{model:str}/versions/{version:str}/estimate",
    permission=Permission.model_read,
    dependencies={"workload": Provide(provide_workload)},
    responses=problems(ModelNotFound, VersionNotFound, VersionNotReady, EstimateImpossible),
    tags=TAGS,
)
async def estimate_memory(
    request: Request[Any, Any, Any],
    work: NamedDependency[Work],
    workload: NamedDependency[Workload],
    model: FromPath[str],
    version: FromPath[str],
    runtime: Runtime = None,
) -> ModelEstimate:
    """Estimate the device memory that one replica takes on each of its devices, how many are usual, and which cannot
    run it; with a runtime, corrected by what its engines reported of the model's family.
    """
    row = await queries.find_model(work.scope, work.session, model)
    found = await queries.find_version(work.session, row, version)
    if not can(VersionState(found.state), VersionAction.deploy):
        raise VersionNotReady(f"version {found.name!r} of model {row.name!r} is {found.state}; its files are not there")
    parts = context_of(request).parts
    usable = entitlements.usable(GrantKind.pool, PoolRow.access, PoolRow.id, work.scope, work.now())
    kinds = await device_kinds(work.session, usable)
    corrections = await corrections_of(work.session, family_of((found.details or {}).get("architectures") or ()))
    facts = await asyncio.to_thread(read_facts, parts.models.store.tree(found.id))
    told = await asyncio.to_thread(estimate_facts, facts, workload, kinds)
    return model_estimate(told, guide_of(facts), corrections, runtime)


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [estimate_memory]
