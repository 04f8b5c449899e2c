"""Traffic with an answer sheet: requests of known size, streamed or not, some cut by their client.

What each request asked for, and what its client saw of the answer, is kept, so that the gateway's records can be held
against it. The mix follows from the seed alone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import httpx

CUT_AFTER_S: Final = 0.03
"""When the client of a whole answer gives up: after the engine began, before it ends."""
_DATA: Final = "data: {"


class Manner(StrEnum):
    whole = "whole"
    whole_cut = "whole_cut"
    streamed = "streamed"
    streamed_cut = "streamed_cut"


_WEIGHTS: Final = {Manner.whole: 35, Manner.whole_cut: 10, Manner.streamed: 40, Manner.streamed_cut: 15}


@dataclass(slots=True)
class Asked:
    """One request. `received` counts the tokens that the client saw; `status` is 0 if no answer began."""

    id: str
    manner: Manner
    prompt_tokens: int
    max_tokens: int
    cut_after: int
    status: int = 0
    received: int = 0
    broken: bool = False
    """The connection was lost, or the stream ended without `[DONE]`, and not by the client's own doing."""


def plan(count: int, seed: int, *, prefix: str = "r") -> list[Asked]:
    """`count` requests; the same ones for the same seed."""
    chance = random.Random(seed)
    manners = chance.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()), k=count)
    return [
        Asked(
            id=f"{prefix}-{number}",
            manner=manner,
            prompt_tokens=chance.randint(1, 8),
            max_tokens=(limit := chance.randint(6, 30)),
            cut_after=chance.randint(1, limit - 2),
        )
        for number, manner in enumerate(manners)
    ]


class Load:
    """Sends `requests` over at most `concurrency` connections; `done` counts those that ended, however they did."""

    def __init__(self, url: str, key: str, model: str, requests: Sequence[Asked], *, concurrency: int = 32) -> None:
        self._url, self._key, self._model = url, key, model
        self._requests, self._concurrency = requests, concurrency
        self.done = 0

    async def run(self) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        async with httpx.AsyncClient(base_url=self._url, headers=headers, timeout=60) as client:
            waiting = iter(self._requests)

            async def take_turns() -> None:
                for asked in waiting:
                    await self._send(client, asked)
                    self.done += 1

            await asyncio.gather(*(take_turns() for _ in range(self._concurrency)))

    async def _send(self, client: httpx.AsyncClient, asked: Asked) -> None:
        try:
            match asked.manner:
                case Manner.whole:
                    await self._whole(client, asked)
                case Manner.whole_cut:
                    async with asyncio.timeout(CUT_AFTER_S):
                        await self._whole(client, asked)
                case Manner.streamed | Manner.streamed_cut:
                    await self._streamed(client, asked)
        except TimeoutError:
            return
        except httpx.TransportError:
            asked.broken = True

    def _body(self, asked: Asked, *, stream: bool) -> dict[str, object]:
        words = " ".join(f"w{number}" for number in range(asked.prompt_tokens))
        message = {"role": "user", "content": words}
        return {"model": self._model, "messages": [message], "max_tokens": asked.max_tokens, "stream": stream}

    async def _whole(self, client: httpx.AsyncClient, asked: Asked) -> None:
        answer = await client.post(
            "chat/completions", json=self._body(asked, stream=False), headers={"X-Request-Id": asked.id}
        )
        asked.status = answer.status_code
        if answer.status_code == httpx.codes.OK:
            asked.received = answer.json()["usage"]["completion_tokens"]

    async def _streamed(self, client: httpx.AsyncClient, asked: Asked) -> None:
        request = client.build_request(
            "POST", "chat/completions", json=self._body(asked, stream=True), headers={"X-Request-Id": asked.id}
        )
        answer = await client.send(request, stream=True)
        ended = False
        try:
            asked.status = answer.status_code
            async for line in answer.aiter_lines():
                asked.received += line.startswith(_DATA) and '"choices"' in line
                ended = ended or line == "data: [DONE]"
                if asked.manner is Manner.streamed_cut and asked.received >= asked.cut_after:
                    return
        finally:
            await answer.aclose()
        asked.broken = answer.status_code == httpx.codes.OK and not ended
