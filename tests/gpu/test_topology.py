"""Domains from links, and the groups that are chosen by them."""

import pytest

from gpu.placement import place
from gpu.requests import Plan
from gpu.topology import ACROSS, best_linked, domains
from gpu.vendors.readings import LinkKind
from tests.gpu.fleets import device, held, node, request, snapshot


def links(count: int, kind: object) -> dict[str, dict[str, LinkKind]]:
    return {f"u{one}": {f"u{two}": kind(one, two) for two in range(count) if two != one} for one in range(count)}  # type: ignore[operator]


def test_domains_follow_the_links() -> None:
    def kind(one: int, two: int) -> LinkKind:
        if one // 2 == two // 2:
            return LinkKind.nvlink
        return LinkKind.pxb if one // 4 == two // 4 else LinkKind.sys

    found = domains(links(8, kind), {})
    assert [found[f"u{number}"] for number in range(8)] == [
        (0, 0, 0),
        (0, 0, 0),
        (2, 0, 0),
        (2, 0, 0),
        (4, 4, 4),
        (4, 4, 4),
        (6, 4, 4),
        (6, 4, 4),
    ]


def test_one_numa_node_is_a_domain_without_links() -> None:
    found = domains({f"u{number}": {} for number in range(4)}, {"u0": 0, "u1": 1, "u2": 0, "u3": None})
    assert found == {"u0": (0, 0, 0), "u1": (1, 1, 1), "u2": (2, 2, 0), "u3": ()}


def test_links_to_a_device_that_tells_nothing_any_more_are_passed_over() -> None:
    """It was lost: its peer's row is read anew and names it no longer, its own row names the peer still."""
    found = domains({"u0": {"u1": LinkKind.nvlink}, "u1": {}}, {"u0": None, "u1": None})
    assert found == {"u0": (0, 0, 0), "u1": ()}


SERVER = [device(index, domains=(index // 4, index // 4, index // 4)) for index in range(8)]
"""Two cliques of four."""


@pytest.mark.parametrize(
    ("leased", "count", "chosen"),
    [
        ((), 4, (0, 1, 2, 3)),
        ((1,), 4, (4, 5, 6, 7)),
        ((1,), 2, (0, 2)),  # the clique that is broken already
        ((1,), 1, (0,)),
        ((0, 1, 4), 3, (5, 6, 7)),
        ((0, 4), 4, (1, 2, 3, 5)),  # three of one clique, not two and two
    ],
)
def test_cliques_are_kept_together_and_whole(leased: tuple[int, ...], count: int, chosen: tuple[int, ...]) -> None:
    fleet = snapshot(
        node(),
        *(device(index, domains=(index // 4,) * 3, leases=held("x") if index in leased else ()) for index in range(8)),
    )
    assert place(fleet, request(devices=count)) == Plan("nod_n1", tuple(f"dev_n1_{index}" for index in chosen))


def test_a_node_with_the_better_linked_group_comes_first() -> None:
    fleet = snapshot(
        node("n1"),
        *(device(index, "n1", domains=(index, index, 0)) for index in range(2)),
        node("n2"),
        *(device(index, "n2", domains=(0, 0, 0)) for index in range(2)),
    )
    assert place(fleet, request(devices=2)) == Plan("nod_n2", ("dev_n2_0", "dev_n2_1"))


def test_what_nobody_tells_is_the_last_tier() -> None:
    assert best_linked([device(0), device(1)], 2)[0] == ACROSS
    assert best_linked(SERVER, 4)[0] == 0
    assert best_linked(SERVER, 5)[0] == ACROSS
    with pytest.raises(ValueError, match="9 devices were asked for"):
        best_linked(SERVER, 9)
