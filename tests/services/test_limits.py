"""A tenant reads what bounds it, its services and its keys, and what is used of that."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from appliance.kernel.errors import BadInput
from appliance.kernel.ids import TenantId, new_id
from appliance.services import limits
from appliance.services.limits import LimitsReport
from tenants import limits as limiting
from tenants.actors import Actor, ActorKind
from tenants.limits import Limits, Priority
from tenants.permissions import PERMISSIONS, Permission, Role
from tenants.tables import ApiKeyRow, TenantRow
from tenants.usage import insert_usage
from tenants.work import Work
from tests.services.stage import Stage


async def report(stage: Stage, tenant_id: TenantId | None) -> LimitsReport:
    actor = Actor(ActorKind.user, "usr_1", "ann", tenant_id, PERMISSIONS[Role.viewer], "req_1")
    async with stage.database.read() as session:
        return await limits.report(Work(session, actor, stage.clock))


async def add_key(stage: Stage, name: str, bounds: Limits, tenant_id: TenantId | None = None) -> str:
    key_id = new_id("key")
    async with stage.database.write() as session:
        session.add(
            ApiKeyRow(
                id=key_id,
                tenant_id=tenant_id or stage.tenant_id,
                name=name,
                prefix=name,
                secret_sha256=key_id,
                scopes=[Permission.inference.value],
                created_by="ann",
                created_at=stage.clock.now(),
                limits=limiting.stored(bounds),
            )
        )
    return key_id


async def metered(stage: Stage, number: int, age_s: float, **members: Any) -> None:
    record = {
        "record_id": f"use_{number}",
        "request_id": f"req_{number}",
        "at": stage.clock.now() - timedelta(seconds=age_s),
        "tenant_id": stage.tenant_id,
        "key_id": "key_0",
        "service_id": "svc_0",
        "deployment_id": "dep_1",
        "replica_id": "rpl_1",
        "route": "POST /v1/chat/completions",
        "model": "chat",
        "status": 200,
        "outcome": "completed",
        "prompt_tokens": 10,
        "completion_tokens": 5,
    }
    async with stage.database.write() as session:
        await insert_usage(session, [record | members])


async def test_limits_of_tenant_services_and_keys_with_what_was_used(stage: Stage) -> None:
    async with stage.database.write() as session:
        tenant = await session.get_one(TenantRow, stage.tenant_id)
        tenant.limits, tenant.priority = {"tokens_per_minute": 1000}, "high"
    service_id = await stage.create("chat", limits=Limits(requests_per_minute=60))
    await stage.create("free")
    key_id = await add_key(stage, "robot", Limits(concurrent_requests=2))
    await add_key(stage, "unbounded", Limits())
    await metered(stage, 1, 5, key_id=key_id, service_id=service_id)
    await metered(stage, 2, 59, key_id=key_id)
    await metered(stage, 3, 61, key_id=key_id, service_id=service_id)
    await metered(stage, 4, 5, key_id=key_id, service_id=service_id, status=429, outcome="refused")
    await metered(stage, 5, 5, tenant_id="ten_guest", service_id=service_id)

    told = (await report(stage, stage.tenant_id)).items

    assert [(item.kind.value, item.name, item.requests, item.tokens) for item in told] == [
        ("tenant", "acme", 2, 30),
        ("service", "chat", 2, 30),
        ("key", "robot", 2, 30),
    ]
    assert [item.limits for item in told] == [
        Limits(tokens_per_minute=1000),
        Limits(requests_per_minute=60),
        Limits(concurrent_requests=2),
    ]
    assert [item.priority for item in told] == [Priority.high, None, None]


async def test_a_tenant_without_limits_is_told_its_use(stage: Stage) -> None:
    await metered(stage, 1, 1)
    (tenant,) = (await report(stage, stage.tenant_id)).items
    assert (tenant.limits, tenant.requests, tenant.tokens) == (Limits(), 1, 15)


async def test_nothing_of_another_tenant_is_told(stage: Stage) -> None:
    other = TenantId(new_id("ten"))
    async with stage.database.write() as session:
        session.add(TenantRow(id=other, name="other", display_name="", state="active", created_at=stage.clock.now()))
    service_id = await stage.create("chat", limits=Limits(requests_per_minute=60))
    await add_key(stage, "theirs", Limits(requests_per_minute=1))
    await metered(stage, 1, 1, service_id=service_id)
    told = await report(stage, other)
    assert [(item.name, item.requests) for item in told.items] == [("other", 0)]
    assert stage.tenant_id not in msgspec.json.encode(told).decode()


async def test_the_platform_says_whose_limits_it_means(stage: Stage) -> None:
    with pytest.raises(BadInput, match="which tenant"):
        await report(stage, None)
