"""What prefix affinity gives: chats of many turns on several engines, simulated, by ways of choosing the replica.

    python -m bench.affinity [--replicas 4] [--load 8] [--chats 3000]

The replica is chosen by the gateway's own code; the engines are a model. Each keeps the prefixes that it computed last
(of chats, and of the applications' system prompts), computes what is missing of a prompt at `PREFILL` tokens a second
and an answer at `DECODE`. Chats begin at random; a user answers after some `THINK_S`. Prompts are real JSON. Printed
are the share of the prompts' tokens that was found in a cache, the seconds to compute the rest, and how unlike the
loads were: the fullest replica's requests beside the mean.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

from appliance.gateway.plane import wire
from appliance.gateway.plane.affinity import chat_point
from appliance.gateway.plane.backends import Backends, Replica
from appliance.gateway.plane.balance import pick
from appliance.gateway.plane.status import StatusWriter
from appliance.gateway.plane.tables import DeploymentTable

CACHE: Final = 400_000
"""Tokens: what is left for them beside a model of 8 billion parameters on a device of 80 GB."""
PREFILL: Final = 8000.0
DECODE: Final = 40.0
THINK_S: Final = 20.0
APPLICATIONS: Final = 6
SYSTEM: Final = (200, 3000)
QUESTION: Final = (20, 400)
ANSWER: Final = (50, 500)
TURNS: Final = 8
_BYTES: Final = 4
"""Of a token."""

Choose = Callable[[DeploymentTable, int], Replica]


class Engine:
    """Prefixes by what they belong to, the one that was used last at the end."""

    def __init__(self) -> None:
        self.prefixes: OrderedDict[str, int] = OrderedDict()
        self.tokens = 0

    def cached(self, names: list[str], prompt: int) -> int:
        return max((min(self.prefixes.get(name, 0), prompt) for name in names), default=0)

    def keep(self, name: str, tokens: int) -> None:
        self.tokens += tokens - self.prefixes.pop(name, 0)
        self.prefixes[name] = tokens
        while self.tokens > CACHE:
            self.tokens -= self.prefixes.popitem(last=False)[1]


class Chat:
    def __init__(self, number: int, random_: random.Random, systems: list[int]) -> None:
        self.name = f"chat-{number}"
        self.application = random_.randrange(APPLICATIONS)
        self.system = systems[self.application]
        self.turns = random_.randint(1, TURNS)
        self.messages = [_message("system", f"application {self.application}", self.system)]
        self.tokens = self.system
        self._random = random_

    def ask(self) -> int:
        """The prompt's tokens."""
        tokens = self._random.randint(*QUESTION)
        self.messages.append(_message("user", f"{self.name} {len(self.messages)}", tokens))
        self.tokens += tokens
        self.turns -= 1
        return self.tokens

    def answer(self, tokens: int) -> None:
        self.messages.append(_message("assistant", self.name, tokens))
        self.tokens += tokens

    def point(self) -> int:
        return chat_point("ten_1", json.dumps(self.messages).encode())


def _message(role: str, text: str, tokens: int) -> dict[str, str]:
    return {"role": role, "content": (text + " ") * (tokens * _BYTES // (len(text) + 1) + 1)}


class Figures(NamedTuple):
    """`hits`: share of the prompts' tokens. `prefill_s` per request. `unlike`: the fullest over the mean."""

    hits: float
    prefill_s: float
    unlike: float


def simulate(choose: Choose, replicas: int, load: float, chats: int, seed: int = 1) -> Figures:
    """`load`: requests in flight per replica, about."""
    random_ = random.Random(seed)
    systems = [random_.randint(*SYSTEM) for _ in range(APPLICATIONS)]
    table, backends = _table(replicas)
    engines = {replica.id: Engine() for replica in table.replicas}
    mean_s = sum(ANSWER) / 2 / DECODE + 0.1
    every_s = mean_s * (TURNS + 1) / 2 / (load * replicas)
    order = count()
    events: list[tuple[float, int, Chat, Replica | None]] = []
    at = 0.0
    for number in range(chats):
        at += random_.expovariate(1 / every_s)
        heapq.heappush(events, (at, next(order), Chat(number, random_, systems), None))
    prompts = found = requests = 0
    unlike: list[float] = []
    while events:
        now, _, chat, replica = heapq.heappop(events)
        if replica is not None:  # an answer's end
            backends.end(replica)
            if chat.turns:
                heapq.heappush(events, (now + random_.expovariate(1 / THINK_S), next(order), chat, None))
            continue
        prompt = chat.ask()
        replica = choose(table, chat.point())
        backends.begin(replica)
        engine = engines[replica.id]
        application = f"application-{chat.application}"
        hit = engine.cached([chat.name, *([application] if application in engine.prefixes else [])], prompt)
        tokens = random_.randint(*ANSWER)
        chat.answer(tokens)
        engine.keep(application, chat.system)
        engine.keep(chat.name, chat.tokens)
        prompts, found, requests = prompts + prompt, found + hit, requests + 1
        loads = [each.in_flight for each in table.replicas]
        unlike.append(max(loads) * replicas / sum(loads))
        ends = now + (prompt - hit) / PREFILL + tokens / DECODE
        heapq.heappush(events, (ends, next(order), chat, replica))
    return Figures(found / prompts, (prompts - found) / PREFILL / requests, sum(unlike) / len(unlike))


def _table(replicas: int) -> tuple[DeploymentTable, Backends]:
    with tempfile.TemporaryDirectory() as directory:
        backends = Backends(StatusWriter(Path(directory) / "status"))
    described = [wire.Replica(f"rpl_{number}", "") for number in range(replicas)]
    return DeploymentTable(wire.Deployment("dep_1", "main", 100, described), backends), backends


def by_prefix(table: DeploymentTable, point: int) -> Replica:
    return _some(pick(table, point, 0.0))


def by_load(table: DeploymentTable, _: int) -> Replica:
    return _some(pick(table, None, 0.0))


def strictly_by_prefix(table: DeploymentTable, point: int) -> Replica:
    return _some(pick(table, point, 0.0, sticky=True))


def in_turn() -> Choose:
    turns = count()
    return lambda table, _: table.replicas[next(turns) % len(table.replicas)]


def _some(replica: Replica | None) -> Replica:
    if replica is None:
        raise RuntimeError("replicas without a bound are never full")
    return replica


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--load", type=float, default=8.0, help="requests in flight per replica")
    parser.add_argument("--chats", type=int, default=3000)
    arguments = parser.parse_args()
    print(f"{arguments.replicas} replicas, about {arguments.load:g} requests in flight on each")
    print(f"{'replica chosen':<36}{'found in a cache':>18}{'prefill, ms/request':>22}{'fullest / mean':>16}")
    ways: dict[str, Choose] = {
        "in turn (round robin)": in_turn(),
        "by load (affinity none)": by_load,
        "by prefix, bounded (the default)": by_prefix,
        "by prefix at any load (as a session)": strictly_by_prefix,
    }
    for name, choose in ways.items():
        figures = simulate(choose, arguments.replicas, arguments.load, arguments.chats)
        print(f"{name:<36}{figures.hits:>17.1%}{1000 * figures.prefill_s:>22.1f}{figures.unlike:>16.2f}")


if __name__ == "__main__":
    main()
