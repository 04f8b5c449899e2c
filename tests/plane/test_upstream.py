"""Connections to engines below HTTP: whose socket it is, and engines that do not accept."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.gateway.plane import wire
from appliance.gateway.plane.backends import Replica
from appliance.gateway.plane.upstream import connect, open_socket


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[socket.socket]:
    """An engine whose accept queue has room for one connection and which accepts none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listening:
        listening.bind(str(tmp_path / "engine.sock"))
        listening.listen(0)
        yield listening


def replica(path: Path) -> Replica:
    return Replica(wire.Replica("rpl_1", str(path), os.getuid()), "dep_1", 0)


async def test_full_accept_queue_is_waited_for_in_order(busy: socket.socket, tmp_path: Path) -> None:
    of = replica(tmp_path / "engine.sock")
    first = await connect(of, 5)
    order: list[int] = []

    async def one(number: int) -> None:
        connection = await connect(of, 5)
        order.append(number)
        connection.abort()

    waiting = [asyncio.create_task(one(number)) for number in range(20)]
    loop = asyncio.get_running_loop()
    while not all(task.done() for task in waiting):
        accepted, _ = await loop.sock_accept(busy)
        accepted.close()
    await asyncio.gather(*waiting)
    first.abort()

    assert order == list(range(20))


async def test_full_accept_queue_is_not_waited_for_beyond_the_timeout(busy: socket.socket, tmp_path: Path) -> None:
    of = replica(tmp_path / "engine.sock")
    first = await connect(of, 5)

    attempts = await asyncio.gather(*(connect(of, 0.2) for _ in range(10)), return_exceptions=True)

    assert [type(each) for each in attempts] == [TimeoutError] * 10
    accepted, _ = await asyncio.get_running_loop().sock_accept(busy)
    accepted.close()
    (await connect(of, 5)).abort()
    first.abort()


@pytest.mark.parametrize("kind", ["link", "file", "foreign"])
def test_only_the_owners_own_socket_is_used(busy: socket.socket, tmp_path: Path, kind: str) -> None:
    path, owner = tmp_path / "engine.sock", os.getuid()
    if kind == "link":
        path = tmp_path / "link"
        path.symlink_to(tmp_path / "engine.sock")
    elif kind == "file":
        path = tmp_path / "file"
        path.touch()
    else:
        owner += 1
    with pytest.raises((PermissionError, OSError), match=r"socket|belongs"):
        open_socket(str(path), owner)
