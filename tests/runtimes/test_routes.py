"""Runtimes and images over HTTP."""

from pathlib import Path

import pytest

from appliance.api.context import Port
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from tests.gpu.serving import Stage, runtimes_folder, served
from tests.runtimes.specs import write

# Litestar 3 wants dependencies and bodies marked; the other routes are to follow.
pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
REGISTERED = {"runtime": "light", "reference": "example/light:1.3.0", "engine_version": "1.3.0"}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    write(tmp_path / "runtimes" / "light")
    return Stage(runtimes_folder(tmp_path / "runtimes"))


async def test_a_tenant_reads_what_runtimes_can_do(database: Database, clock: ManualClock, stage: Stage) -> None:
    async with served(database, clock, stage, Port.tenant) as client:
        names = [runtime["name"] for runtime in (await client.get("/api/v1/runtimes")).json()["items"]]
        assert "light" in names
        light = (await client.get("/api/v1/runtimes/light")).json()
        assert (light["mode"], light["ready"], light["launchers"]) == ("high-performance", True, ["process", "docker"])
        assert {"name": "--share", "type": "number", "minimum": 0, "maximum": 1} in light["args"]
        assert (await client.get("/api/v1/runtimes/none")).status_code == 404
        assert (await client.post("/api/v1/images", json=REGISTERED)).status_code == 405


async def test_a_runtime_whose_environment_is_missing_is_not_ready(
    database: Database, clock: ManualClock, stage: Stage
) -> None:
    stage.ready = False
    async with served(database, clock, stage, Port.tenant) as client:
        assert (await client.get("/api/v1/runtimes/light")).json()["ready"] is False


async def test_an_administrator_registers_images(database: Database, clock: ManualClock, stage: Stage) -> None:
    async with served(database, clock, stage, Port.admin) as client:
        registered = await client.post("/api/v1/images", json=REGISTERED)
        assert registered.status_code == 201
        pinned = REGISTERED | {"reference": f"example/light:1.3.0@sha256:{'a' * 64}"}
        assert (await client.post("/api/v1/images", json=pinned)).json()["digest"] == f"sha256:{'a' * 64}"
        assert (await client.post("/api/v1/images", json=pinned)).json()["code"] == "name-taken"
        assert (await client.post("/api/v1/images", json=REGISTERED | {"runtime": "x"})).json()["code"] == "not-found"
        assert (await client.post("/api/v1/images", json=REGISTERED | {"reference": "light"})).status_code == 400
        images = (await client.get("/api/v1/images?runtime=light")).json()["items"]
        assert [(image["reference"][:19], image["is_default"]) for image in images] == [
            ("example/light:1.3.0", False),
            ("example/light:1.3.0", False),
            ("example/light:1.2.3", True),
        ]
        assert (await client.delete(f"/api/v1/images/{registered.json()['id']}")).status_code == 204
        assert len((await client.get("/api/v1/images?runtime=light")).json()["items"]) == 2
