"""What is kept of services has an end; what is shown is what was kept."""

from __future__ import annotations

from pathlib import Path

from appliance.app.housekeeping import Housekeeping
from appliance.kernel.ids import new_id
from appliance.launchers.logfiles import previous
from appliance.services import queries
from appliance.services.events import KEPT, note
from appliance.services.logs import read_log
from appliance.services.states import Phase, ReplicaState
from appliance.services.tables import ReplicaRow
from tests.services.stage import Stage


def housekeeping(stage: Stage, logs: Path) -> Housekeeping:
    return Housekeeping(stage.machinery.guarded, stage.clock, logs)


async def add_replicas(stage: Stage, service_id: str, count: int, **values: object) -> list[str]:
    deployment = await stage.deployment(service_id)
    rows = [
        ReplicaRow(
            id=new_id("rpl"),
            service_id=service_id,
            deployment_id=deployment.id,
            tenant_id=stage.tenant_id,
            generation=1,
            reason="",
            created_at=stage.clock.now(),
            **values,
        )
        for _ in range(count)
    ]
    async with stage.database.write() as session:
        session.add_all(rows)
    return sorted(row.id for row in rows)


async def test_logs_go_with_the_last_record_of_their_replica(stage: Stage, home: Path) -> None:
    service_id = await stage.create(replicas=0)
    [kept] = await add_replicas(stage, service_id, 1, state="stopped", ended_at=stage.clock.now())
    logs = home / "logs"
    logs.mkdir()
    forgotten = new_id("rpl")
    names = [f"{kept}.log", f"{forgotten}.log", f"{forgotten}.log.1", "notes.txt"]
    for name in names:
        (logs / name).touch()
    swept = await housekeeping(stage, logs).reconcile()
    assert swept.logs == 2
    assert sorted(file.name for file in logs.iterdir()) == sorted([names[0], "notes.txt"])


async def test_the_newest_events_of_each_service_stay(stage: Stage, home: Path) -> None:
    (home / "logs").mkdir()
    busy, quiet = await stage.create("busy", replicas=0), await stage.create("quiet", replicas=0)
    async with stage.database.write() as session:
        for number in range(KEPT + 5):
            note(session, stage.clock, busy, Phase.changed, f"change {number}")
    swept = await housekeeping(stage, home / "logs").reconcile()
    assert swept.events == 6  # `created` too
    assert len(await stage.events(busy)) == KEPT
    assert await stage.events(quiet) == ["created by dev"]


async def test_a_kept_log_is_read_across_its_rotation(stage: Stage, home: Path) -> None:
    log = home / "rpl.log"
    previous(log).write_text("one\ntwo\n")
    log.write_text("three\n")
    assert await read_log(stage.launcher, home, "rpl", 2) == "two\nthree\n"
    assert await read_log(stage.launcher, home, "other", 2) == ""


async def test_each_service_shows_its_own_newest_ended_replicas(stage: Stage) -> None:
    shown = {}
    for name in ("first", "second"):
        service_id = await stage.create(name, replicas=0)
        ended = await add_replicas(stage, service_id, 7, state="failed", ended_at=stage.clock.now())
        live = await add_replicas(stage, service_id, 1, state=ReplicaState.pending.value)
        shown[service_id] = {*ended[-5:], *live}
    async with stage.database.read() as session:
        rows = await queries.replicas_of(session, list(shown))
    for service_id, expected in shown.items():
        assert {row.id for row in rows if row.service_id == service_id} == expected
    assert [row.id for row in rows] == sorted((row.id for row in rows), reverse=True)
