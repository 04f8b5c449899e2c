"""Which image a new deployment runs."""

from __future__ import annotations

import pytest

from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.errors import BadInput, NotFound
from appliance.runtimes.catalog import Catalog
from appliance.runtimes.images import choose_image, register_image
from appliance.runtimes.schemas import ImageRegister

CATALOG = Catalog.load()
VLLM = CATALOG.get("vllm")


async def test_the_runtimes_own_image_is_the_default(database: Database) -> None:
    async with database.read() as session:
        assert await choose_image(session, VLLM, "docker", None) == VLLM.default_image
        assert await choose_image(session, VLLM, "docker", VLLM.default_image) == VLLM.default_image
        assert await choose_image(session, VLLM, "process", None) is None


async def test_a_registered_image_is_chosen_by_reference_or_id(database: Database) -> None:
    new = ImageRegister(runtime="vllm", reference="registry.local/vllm:next", engine_version="next")
    async with database.write() as session:
        row = await register_image(session, ManualClock(), CATALOG, new)
        assert await choose_image(session, VLLM, "docker", "registry.local/vllm:next") == row.reference
        assert await choose_image(session, VLLM, "docker", row.id) == row.reference


async def test_an_image_of_another_runtime_is_not_there(database: Database) -> None:
    new = ImageRegister(runtime="transformers", reference="registry.local/t:1", engine_version="1")
    async with database.write() as session:
        await register_image(session, ManualClock(), CATALOG, new)
        with pytest.raises(NotFound, match="registered for the vllm runtime"):
            await choose_image(session, VLLM, "docker", "registry.local/t:1")


async def test_the_process_launcher_runs_no_image(database: Database) -> None:
    async with database.read() as session:
        with pytest.raises(BadInput, match="runs no images"):
            await choose_image(session, VLLM, "process", "registry.local/vllm:next")
