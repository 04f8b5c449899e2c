"""What a database cannot hold is the caller's error; what it gives up by itself may be tried again."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from appliance.kernel import db
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.errors import BadInput, DatabaseUnavailable
from appliance.kernel.tables import LeaseRow


def lease(name: str, **values: object) -> LeaseRow:
    return LeaseRow(name=name, holder="secret", taken_at=ManualClock().now(), **{"epoch": 1, **values})


async def add(database: Database, row: LeaseRow) -> None:
    async with database.write() as session:
        session.add(row)


async def test_a_number_that_is_too_large_is_bad_input(database: Database) -> None:
    with pytest.raises(BadInput):
        await add(database, lease("a", epoch=10**30))


async def test_a_nul_is_bad_input_where_it_cannot_be_stored(database: Database) -> None:
    if database.engine.dialect.name == "sqlite":
        await add(database, lease("a\0b"))
        return
    with pytest.raises(BadInput):
        await add(database, lease("a\0b"))


async def test_an_error_does_not_tell_the_values(database: Database) -> None:
    await add(database, lease("a"))
    with pytest.raises(IntegrityError) as caught:
        await add(database, lease("a"))
    assert "INSERT" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_of_two_that_wait_for_each_other_one_may_try_again(database: Database) -> None:
    await add(database, lease("a"))
    await add(database, lease("b"))
    has_first = [asyncio.Event(), asyncio.Event()]
    if database.engine.dialect.name == "sqlite":
        has_first[1].set()  # one writer: they never meet

    async def raise_both(turn: int, *names: str) -> str:
        try:
            async with database.write() as session:
                for name in names:
                    raised = update(LeaseRow).where(LeaseRow.name == name).values(epoch=LeaseRow.epoch + 1)
                    await session.execute(raised)
                    has_first[turn].set()
                    await has_first[1 - turn].wait()
        except DatabaseUnavailable:
            return "again"
        return "done"

    outcomes = sorted(await asyncio.gather(raise_both(0, "a", "b"), raise_both(1, "b", "a")))
    async with database.read() as session:
        epochs = (await session.scalars(select(LeaseRow.epoch))).all()
    assert (outcomes, epochs) in ((["again", "done"], [2, 2]), (["done", "done"], [3, 3]))


@pytest.mark.parametrize("limit", ["LOCK_TIMEOUT_S", "STATEMENT_TIMEOUT_S"])
async def test_a_lock_that_is_not_to_be_had_is_told(
    database_url: str, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Whether the server ends the waiting, or the driver."""
    monkeypatch.setattr(db, limit, 0.3)
    monkeypatch.setattr(db, "BUSY_TIMEOUT_S", 0.15)
    database = Database(database_url)
    await add(database, lease("a"))
    async with database.write() as session:
        await session.execute(update(LeaseRow).values(epoch=2))
        with pytest.raises(DatabaseUnavailable):
            async with database.write() as other:
                await other.execute(update(LeaseRow).values(epoch=3))
    async with database.read() as session:
        assert await session.scalar(select(LeaseRow.epoch)) == 2
    await database.close()


async def test_requests_leave_room_for_the_control_plane(database: Database) -> None:
    """However many come, and however long their transactions are."""
    callers = database.for_callers()
    most = db.POOL[database.engine.dialect.name] - db.KEPT_FREE
    all_taken, ended = asyncio.Event(), asyncio.Event()
    began: list[bool] = []

    async def ask() -> None:
        async with callers.read() as session:
            await session.execute(select(LeaseRow))
            began.append(True)
            if len(began) == most:
                all_taken.set()
            await ended.wait()

    async with asyncio.TaskGroup() as asking:
        for _ in range(50):
            asking.create_task(ask())
        await all_taken.wait()
        await add(database, lease("a"))
        async with database.read() as session:
            assert await session.scalar(select(LeaseRow.name)) == "a"
        assert len(began) == most
        if database.engine.dialect.name == "sqlite":  # the one writer waits for no reader
            async with asyncio.timeout(5):
                await add(callers, lease("b"))
        ended.set()
    assert len(began) == 50


async def test_who_waits_for_a_place_in_vain_is_told(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "BUSY_TIMEOUT_S", 0.1)
    monkeypatch.setattr(db, "KEPT_FREE", db.POOL[database.engine.dialect.name] - 1)
    callers = database.for_callers()
    async with callers.read():
        with pytest.raises(DatabaseUnavailable, match="try again"):
            async with callers.read():
                pass
    async with callers.read() as session:
        assert await session.scalar(select(LeaseRow)) is None


async def test_requests_that_wait_to_write_leave_room_to_read_and_loops_their_turn(database: Database) -> None:
    callers = database.for_callers()
    begun, ended = asyncio.Event(), asyncio.Event()
    order: list[str] = []

    async def write(name: str, of: Database) -> None:
        async with of.write() as session:
            begun.set()
            session.add(lease(name))
            await session.flush()
            if name == "first":
                await ended.wait()
        order.append(name)

    async with asyncio.TaskGroup() as writing:
        writing.create_task(write("first", database))
        await begun.wait()
        for number in range(20):
            writing.create_task(write(f"caller-{number}", callers))
        await asyncio.sleep(0)
        async with asyncio.timeout(5), callers.read() as session:
            assert "first" not in (await session.scalars(select(LeaseRow.name))).all(), "it is not committed"
        writing.create_task(write("loop", database))
        await asyncio.sleep(0)
        ended.set()
    assert len(order) == 22
    if database.engine.dialect.name == "sqlite":
        assert order.index("loop") <= db.CALLERS_IN_LINE + 1
