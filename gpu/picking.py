"""Which devices of a pool a reservation takes where it names none. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Candidate(NamedTuple):
    """A device that could be taken, with its place on the node. `is_held`: somebody would have to leave it."""

    device_id: str
    node_id: str
    vendor: str
    model: str
    position: int
    is_held: bool


def pick(candidates: Iterable[Candidate], count: int) -> Sequence[str] | None:
    """So many equal devices, by id: on as few nodes as may be, then those that nobody has to leave; None where there
    are fewer. Independent of the order of the candidates.
    """
    kinds: dict[tuple[str, str], dict[str, list[Candidate]]] = defaultdict(lambda: defaultdict(list))
    for candidate in sorted(candidates, key=lambda each: (each.is_held, each.position, each.device_id)):
        kinds[candidate.vendor, candidate.model][candidate.node_id].append(candidate)
    picked = [_of_nodes(nodes, count) for nodes in kinds.values() if sum(map(len, nodes.values())) >= count]
    best = min(picked, key=_cost, default=None)
    return None if best is None else [candidate.device_id for candidate in best]


def _cost(picked: Sequence[Candidate]) -> tuple[int, int, str, str]:
    nodes = {candidate.node_id for candidate in picked}
    return len(nodes), sum(candidate.is_held for candidate in picked), picked[0].vendor, picked[0].model


def _of_nodes(nodes: dict[str, list[Candidate]], count: int) -> list[Candidate]:
    """Of each node as many as are missing; a node that has them all comes before one that has most."""
    left, picked = dict(nodes), list[Candidate]()
    while (missing := count - len(picked)) > 0:

        def cost(node_id: str, missing: int = missing) -> tuple[bool, int, int, str]:
            offered = left[node_id]
            suffices = len(offered) >= missing
            held = sum(candidate.is_held for candidate in offered[:missing])
            return not suffices, held if suffices else 0, len(offered) if suffices else -len(offered), node_id

        picked += left.pop(min(left, key=cost))[:missing]
    return picked
