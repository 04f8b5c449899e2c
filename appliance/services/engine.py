"""Talking to one engine over its unix socket: is it up, does a real token come back, how much has it generated.

The engine is not trusted: answers are bounded, and what it says in an error is cut short before it is shown.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

LONGEST_ANSWER = 1 << 20
_LONGEST_QUOTE = 300
PROBE_PROMPT = "Hi"


class EngineTrouble(Exception):
    """The engine did not do what a live engine does; the text is for the service's owner."""


class ProbeUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int


class _Completion(msgspec.Struct):
    choices: list[Any]
    usage: ProbeUsage


class Engine:
    """A client for one socket; use as an async context manager."""

    def __init__(self, socket: Path, *, timeout_s: float) -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def is_healthy(self, path: str) -> bool:
        """Whether the health path answers 200; an engine that does not listen yet is not healthy."""
        try:
            return (await self._client.get(path)).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def one_token(self, model: str) -> ProbeUsage:
        """Ask for one token; raises `EngineTrouble` unless one came back in time."""
        body = {"model": model, "prompt": PROBE_PROMPT, "max_tokens": 1, "temperature": 0, "stream": False}
        try:
            answer = await self._client.post("/v1/completions", json=body)
        except httpx.TimeoutException as error:
            raise EngineTrouble("no token came back in time") from error
        except httpx.TransportError as error:
            raise EngineTrouble(f"the engine's socket failed: {type(error).__name__}") from error
        if answer.status_code != httpx.codes.OK:
            raise EngineTrouble(f"the engine answered {answer.status_code}: {_quote(answer.content)}")
        try:
            completion = msgspec.json.decode(answer.content[:LONGEST_ANSWER], type=_Completion)
        except msgspec.MsgspecError as error:
            raise EngineTrouble(f"the engine's answer is not a completion: {_quote(answer.content)}") from error
        if not completion.choices or completion.usage.completion_tokens < 1:
            raise EngineTrouble("the engine answered without a token")
        return completion.usage

    async def generated_tokens(self, metrics_path: str, counter: str) -> float | None:
        """The engine's own count of generated tokens; None where it does not tell."""
        try:
            answer = await self._client.get(metrics_path)
        except httpx.TransportError:
            return None
        return counter_total(answer.text[:LONGEST_ANSWER], counter) if answer.status_code == httpx.codes.OK else None


def counter_total(exposition: str, counter: str) -> float | None:
    """The sum over all label sets of `counter` in a Prometheus text exposition; None if it is absent."""
    total: float | None = None
    for line in exposition.splitlines():
        name, _, rest = line.partition("{") if "{" in line else line.partition(" ")
        if name.strip() == counter:
            total = (total or 0.0) + float(rest.rsplit(" ", 1)[-1])
    return total


def _quote(content: bytes) -> str:
    text = " ".join(content[: _LONGEST_QUOTE * 4].decode("utf-8", "replace").split())
    return text[:_LONGEST_QUOTE]
