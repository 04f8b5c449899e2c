"""Publishing is one transaction: of many at once each limit, name and port is given exactly as often as it may be."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec
import pytest
from sqlalchemy import delete, func, select

from appliance.gateway.errors import PortOutsideGateway
from appliance.gateway.tables import ListenerRow
from appliance.kernel.errors import ApplianceError, Conflict, NameTaken
from appliance.models.tables import ModelVersionRow
from appliance.services.schemas import CreateService
from appliance.services.tables import ServiceRow
from tenants.quotas import QuotaExceeded
from tests.services.stage import LIMIT, Stage

NOTHING = {"services": 0, "replicas": 0, "devices": 0, "platform": 0}


async def attempt(stage: Stage, name: str, **values: object) -> str:
    try:
        await stage.create(name, **values)
    except ApplianceError as error:
        return error.code
    return "created"


async def test_of_many_at_once_as_many_succeed_as_the_quota_has_room_for(stage: Stage) -> None:
    outcomes = await asyncio.gather(*(attempt(stage, f"chat-{number}") for number in range(2 * LIMIT)))
    assert Counter(outcomes) == {"created": LIMIT, QuotaExceeded.code: LIMIT}
    assert await stage.counted() == {"services": LIMIT, "replicas": LIMIT, "devices": 0, "platform": LIMIT}


async def test_of_many_with_one_name_one_succeeds(stage: Stage) -> None:
    outcomes = await asyncio.gather(*(attempt(stage, "chat") for _ in range(5)))
    assert Counter(outcomes) == {"created": 1, NameTaken.code: 4}
    assert (await stage.counted())["services"] == 1


async def test_each_gets_a_port_of_its_own(stage: Stage) -> None:
    await asyncio.gather(*(stage.create(f"chat-{number}") for number in range(LIMIT)))
    async with stage.database.read() as session:
        ports = (await session.scalars(select(ListenerRow.port))).all()
    assert len(set(ports)) == LIMIT


async def test_what_fails_late_counts_nothing(stage: Stage) -> None:
    with pytest.raises(PortOutsideGateway):
        await stage.create(gateway="default", port=1)
    assert await stage.counted() == NOTHING
    async with stage.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(ServiceRow)) == 0


async def test_a_version_that_was_deleted_meanwhile_is_a_conflict(stage: Stage) -> None:
    async with stage.database.write() as session:
        await session.execute(delete(ModelVersionRow).where(ModelVersionRow.id == stage.version_id))
    with pytest.raises(Conflict):
        await stage.create()
    assert await stage.counted() == NOTHING


@pytest.mark.parametrize("wrong", ["--trust-remote-code", "a\0b", "two words", "x\n"])
@pytest.mark.parametrize("member", ["name", "served_model"])
def test_a_name_is_a_name(member: str, wrong: str) -> None:
    """Either is a word of the engine's command line."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "chat", "model": "tiny", member: wrong}, CreateService)
