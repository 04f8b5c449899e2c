"""Every crash point of a combination, and pairs: a second death while the control plane recovers from the first."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from tests.campaign.outcome import Outcome
from tests.campaign.stage import Stage, each
from tests.support import crashing
from tests.support.crashing import Point


def points_of(stage: Stage, combination: str) -> list[Point]:
    with stage.crasher(combination) as (_, crasher):
        return crasher.discover()


def single(stage: Stage, combination: str, *, most: int | None, seed: int) -> Outcome:
    outcome = Outcome("single crash points", combination)
    points = points_of(stage, combination)
    outcome.told = f"{len(points)} points discovered"
    chosen = points if most is None else crashing.sample(points, most, seed)
    _die(stage, outcome, [(point,) for point in chosen])
    return outcome


def pairs(stage: Stage, combination: str, *, count: int, seed: int) -> Outcome:
    outcome = Outcome("pairs of crash points", combination)
    points = points_of(stage, combination)
    chance = random.Random(seed)
    _die(stage, outcome, [(chance.choice(points), chance.choice(points)) for _ in range(count)])
    return outcome


def _die(stage: Stage, outcome: Outcome, chosen: Sequence[tuple[Point, ...]]) -> None:
    def lives() -> Iterator[Callable[[tuple[Point, ...]], bool]]:
        with stage.crasher(outcome.combination) as (appliance, crasher):
            yield crasher.die_at
            assert appliance.engines() == 1, "engines are left over"

    each(outcome, chosen, lives, lambda points: " then ".join(map(str, points)))
