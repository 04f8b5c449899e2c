"""A container's log: read, followed, kept."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

from docker import APIClient
from docker.errors import NotFound

from appliance.launchers.docker.daemon import DockerDaemon

_POLL_S = 0.3
_WINDOW_LINES = 500


def read(client: APIClient, container_id: str, tail: int | None) -> list[str]:
    """The last `tail` lines, or all; the daemon's log driver bounds how many that can be."""
    data: bytes = client.logs(container_id, tail="all" if tail is None else tail)
    return _split(data)


def copy(client: APIClient, container_id: str, path: Path) -> None:
    """The whole log into `path`, which is replaced: whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for chunk in client.logs(container_id, stream=True, follow=False):
                file.write(chunk)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


async def follow(
    daemon: DockerDaemon, container_id: str, *, is_running: Callable[[], Awaitable[bool]]
) -> AsyncIterator[str]:
    """Lines from now on, until the container has ended and all was read.

    Polled from the end of the log by the daemon's time stamps: a stream would hold a thread for each reader.
    """
    after = _last_stamp(await daemon.call(lambda client: _stamped(client, container_id, 1)))
    while True:
        # Asked before reading, so that the last words of an engine are not missed.
        running = await is_running()
        try:
            lines = await daemon.call(partial(_since, container_id=container_id, after=after))
        except NotFound:
            return
        for _, text in lines:
            yield text
        after = _last_stamp(lines) or after
        if not running:
            return
        await asyncio.sleep(_POLL_S)


def _since(client: APIClient, *, container_id: str, after: str) -> list[tuple[str, str]]:
    """Lines stamped later than `after`; the window grows until it reaches back to it."""
    window = _WINDOW_LINES
    while True:
        lines = _stamped(client, container_id, window)
        if len(lines) < window or lines[0][0] <= after:
            return [line for line in lines if line[0] > after]
        window *= 4


def _stamped(client: APIClient, container_id: str, tail: int) -> list[tuple[str, str]]:
    """Pairs of stamp and text. Stamps have a fixed width (nanoseconds, UTC), so that they compare as text."""
    lines = _split(client.logs(container_id, tail=tail, timestamps=True))
    return [(stamp, text) for stamp, _, text in (line.partition(" ") for line in lines)]


def _last_stamp(lines: list[tuple[str, str]]) -> str:
    return lines[-1][0] if lines else ""


def _split(data: bytes) -> list[str]:
    lines = data.decode(errors="replace").split("\n")
    if not lines[-1]:
        lines.pop()
    return lines
