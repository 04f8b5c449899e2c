"""The command; its exit status is 1 when anything failed."""
# ruff: noqa: T201 - a command prints

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from tests.campaign import crashes, kills
from tests.campaign.outcome import Outcome, page, write
from tests.campaign.stage import Stage


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    outcomes: list[Outcome] = []
    with ExitStack() as stack:
        for part in _parts(Stage(stack), options):
            began = time.monotonic()
            outcome = part()
            outcome.seconds = time.monotonic() - began
            outcomes.append(outcome)
            counts = f"{outcome.tried} tried, {len(outcome.unmet)} not reached again, {len(outcome.failures)} failed"
            print(f"{outcome.part}, {outcome.combination}: {counts}, {outcome.seconds:.0f} s", flush=True)
            for failure in outcome.failures:
                print(f"  {failure}", flush=True)
    path = write(page(outcomes, seed=options.seed, arguments=shlex.join(arguments)))
    failures = sum(len(outcome.failures) for outcome in outcomes)
    print(f"{sum(outcome.tried for outcome in outcomes)} tried, {failures} failed; see {path}")
    return 1 if failures else 0


def _parts(stage: Stage, options: argparse.Namespace) -> Iterator[Callable[[], Outcome]]:
    combinations = [name for name in stage.combinations if name in (options.only or stage.combinations)]
    for name in combinations:
        if options.worker_kills:
            yield partial(kills.worker_kills, stage, name, count=options.worker_kills, seed=options.seed)
        if options.soak_kills:
            yield partial(kills.soak, stage, name, count=options.soak_kills, seed=options.seed)
    for name in combinations:
        if options.points != 0:
            yield partial(crashes.single, stage, name, most=options.points, seed=options.seed)
        if options.pairs:
            yield partial(crashes.pairs, stage, name, count=options.pairs, seed=options.seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--seed", type=int, default=20_261)
    parser.add_argument("--points", type=int, help="so many crash points of each combination; default: all")
    parser.add_argument("--pairs", type=int, default=50, help="pairs of crash points on each combination")
    parser.add_argument("--worker-kills", type=int, default=1000, help="on each combination")
    parser.add_argument("--soak-kills", type=int, default=200, help="on each combination")
    parser.add_argument("--only", action="append", metavar="LAUNCHER+DATABASE", help="a combination; may be repeated")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
