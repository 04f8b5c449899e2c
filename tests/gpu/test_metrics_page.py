"""`/metrics` of the control plane tells of devices, and answers without the database."""

from pathlib import Path

import httpx
import pytest

from appliance.app.internal import Internal
from appliance.kernel.activation import Activations
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.observe.recorder import Telemetry
from appliance.observe.store import Store
from gpu.discovery import record_devices, record_node
from tests.gpu.test_leasing import MACHINE, seen


async def gateway_metrics() -> str:
    return "appliance_gateway_requests_total 7\n"


async def page(database: Database, folder: Path) -> list[str]:
    history = Telemetry(database, ManualClock(), Store(folder / "telemetry.sqlite", most_bytes=0))
    internal = Internal(database, Activations([], ManualClock()), gateway_metrics, history, gateway_user="gateway")
    transport = httpx.ASGITransport(internal)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://internal.test") as client:
        answer = await client.get("/metrics")
    assert answer.status_code == httpx.codes.OK
    return answer.text.splitlines()


async def test_devices_are_told_beside_the_gateway(database: Database, clock: ManualClock, tmp_path: Path) -> None:
    async with database.write() as session:
        row = await record_node(session, clock, None, MACHINE)
        await record_devices(session, clock, row, seen(2))
    lines = await page(database, tmp_path)
    assert 'appliance_devices{simulated="false",state="healthy",vendor="nvidia"} 2.0' in lines
    assert "appliance_gateway_requests_total 7" in lines


@pytest.mark.parametrize("url", ["sqlite+aiosqlite:///{}/none/at/all.sqlite"])
async def test_the_page_answers_without_the_database(tmp_path: Path, url: str) -> None:
    database = Database(url.format(tmp_path))
    lines = await page(database, tmp_path)
    await database.close()
    assert "# the devices are not told: the database does not answer" in lines
    assert "appliance_gateway_requests_total 7" in lines
