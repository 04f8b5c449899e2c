"""Talking to one engine over its unix socket: is it up, does a real token come back, how much has it generated.

The engine is not trusted: each answer is bounded in length and time, its socket is opened without following links
(it lies in a folder that the engine writes), and what it says in an error is cut short before it is shown.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from appliance.services.quoting import quote

LONGEST_ANSWER: Final = 1 << 20
PROBE_PROMPT: Final = "Hi"
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Never used on a unix socket; without it httpx would load every authority's certificate for each client."""


class EngineTrouble(Exception):
    """The engine did not do what a live engine does; the text is for the service's owner."""


class ProbeUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int


class _Completion(msgspec.Struct):
    choices: list[Any]
    usage: ProbeUsage


class Engine:
    """A client for one socket, which need not be there yet; `timeout_s` is for one whole answer."""

    def __init__(self, socket: Path, *, timeout_s: float) -> None:
        self._socket, self._timeout_s = socket, timeout_s

    async def is_healthy(self, path: str) -> bool:
        """Whether the health path answers 200; an engine that does not listen yet is not healthy."""
        try:
            status, _ = await self._ask("GET", path)
        except EngineTrouble:
            return False
        return status == httpx.codes.OK

    async def one_token(self, model: str) -> ProbeUsage:
        """Ask for one token; raises `EngineTrouble` unless one came back in time."""
        body = {"model": model, "prompt": PROBE_PROMPT, "max_tokens": 1, "temperature": 0, "stream": False}
        status, content = await self._ask("POST", "/v1/completions", body)
        if status != httpx.codes.OK:
            raise EngineTrouble(f"the engine answered {status}: {_quote(content)}")
        try:
            completion = msgspec.json.decode(content, type=_Completion)
        except msgspec.MsgspecError as error:
            raise EngineTrouble(f"the engine's answer is not a completion: {_quote(content)}") from error
        if not completion.choices or completion.usage.completion_tokens < 1:
            raise EngineTrouble("the engine answered without a token")
        return completion.usage

    async def generated_tokens(self, metrics_path: str, counter: str) -> float | None:
        """The engine's own count of generated tokens; None where it does not tell."""
        try:
            status, content = await self._ask("GET", metrics_path)
        except EngineTrouble:
            return None
        return counter_total(content.decode("utf-8", "replace"), counter) if status == httpx.codes.OK else None

    async def _ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Status and body of one answer; raises `EngineTrouble`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                with _itself(self._socket) as socket:
                    return await _exchange(socket, method, path, body)
        except TimeoutError as error:
            raise EngineTrouble(f"the engine did not answer within {self._timeout_s:g} s") from error
        except (httpx.HTTPError, OSError) as error:
            raise EngineTrouble(f"the engine's socket failed: {type(error).__name__}") from error


@contextmanager
def _itself(socket: Path) -> Iterator[str]:
    """A path that leads to this very socket; `PermissionError` for a link or anything else in its place."""
    descriptor = os.open(socket, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise PermissionError(f"{socket} is not a socket")
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


async def _exchange(socket: str, method: str, path: str, body: object) -> tuple[int, bytes]:
    content = bytearray()
    client = httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=socket, verify=_NO_TLS),
        base_url="http://engine",
        headers={"Accept-Encoding": "identity"},  # what comes is not decoded: a few bytes may unpack to gigabytes
        timeout=None,  # noqa: S113 - the caller's deadline is for the whole answer
    )
    async with client, client.stream(method, path, json=body) as answer:
        async for chunk in answer.aiter_raw():
            content += chunk
            if len(content) > LONGEST_ANSWER:
                raise EngineTrouble(f"the engine's answer is longer than {LONGEST_ANSWER} bytes")
        return answer.status_code, bytes(content)


def counter_total(exposition: str, counter: str) -> float | None:
    """The sum over all label sets of `counter` in a Prometheus text exposition; None if it is absent."""
    total: float | None = None
    for line in exposition.splitlines():
        if not line.startswith((f"{counter} ", f"{counter}{{")):
            continue
        after_labels = line.removeprefix(counter).rpartition("}")[2].split()  # the value, and maybe a time stamp
        try:
            total = (total or 0.0) + float(after_labels[0])
        except (IndexError, ValueError):
            continue  # not a number: as good as absent
    return total


def _quote(content: bytes) -> str:
    return " ".join(quote(content.decode("utf-8", "replace")).split())
