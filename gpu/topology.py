"""How well the devices of a node are linked, and which of them make the best group. Pure.

A node's devices are divided at each level of `LEVELS` into domains: sets whose members reach one another over links
that are at least so good. The domains of a level lie within those of the next, so a group that fits a tighter one is
linked better.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, Protocol, TypeVar

from gpu.vendors.readings import LinkKind

LEVELS: Final = (
    frozenset({LinkKind.nvlink}),
    frozenset({LinkKind.board, LinkKind.pix, LinkKind.pxb}),
    frozenset({LinkKind.phb, LinkKind.node}),
)
"""NVLink; the PCIe switches of one root; one NUMA node. What is linked by less than these shares the node alone."""
ACROSS: Final = len(LEVELS)
"""The tier of a group that spans NUMA nodes, or whose links nobody tells."""


class Placed(Protocol):
    @property
    def domains(self) -> tuple[int, ...]: ...


D = TypeVar("D", bound=Placed)


def domains(
    links: Mapping[str, Mapping[str, LinkKind]], numa_nodes: Mapping[str, int | None]
) -> dict[str, tuple[int, ...]]:
    """For each device, by UUID, the number of its domain at each level.

    `links` has the way to each peer. Devices of one NUMA node are in one domain of the last level even where no
    link between them is told. A device of which neither is known gets no domains.
    """
    told = [uuid for uuid in sorted(links) if links[uuid] or numa_nodes.get(uuid) is not None]
    known = frozenset(told)  # a row keeps the links of a device that is gone; those that are left may tell none
    found: dict[str, list[int]] = {uuid: [] for uuid in links}
    good: set[LinkKind] = set()
    for level, kinds in enumerate(LEVELS):
        good |= kinds
        together = _Union(told)
        for one in told:
            for other, kind in links[one].items():
                if kind in good and other in known:
                    together.join(one, other)
        if level == ACROSS - 1:
            _join_numa(together, told, numa_nodes)
        for uuid in told:
            found[uuid].append(together.number(uuid))
    return {uuid: tuple(numbers) for uuid, numbers in found.items()}


def _join_numa(together: _Union, uuids: Sequence[str], numa_nodes: Mapping[str, int | None]) -> None:
    first: dict[int, str] = {}
    for uuid in uuids:
        numa = numa_nodes.get(uuid)
        if numa is not None:
            together.join(first.setdefault(numa, uuid), uuid)


def best_linked(devices: Sequence[D], count: int) -> tuple[int, list[D]]:
    """The tier (0 is the best) and the members of the best-linked group of `count`; there must be so many.

    Among domains that are large enough the one with the fewest devices is taken, so that large ones stay whole; among
    devices that do not differ, the first of `devices`.
    """
    for tier in range(ACROSS + 1):
        sets = [members for members in _domains_at(devices, tier) if len(members) >= count]
        if sets:
            return tier, _narrowed(_smallest(sets, devices, tier), count, tier - 1)
    raise ValueError(f"{count} devices were asked for, there are {len(devices)}")


def _smallest(sets: Sequence[list[D]], devices: Sequence[D], tier: int) -> list[D]:
    """The set with the fewest members; among equals the one whose wider domains have the fewest."""
    wider = [Counter(device.domains[level] for device in devices if device.domains) for level in range(tier, ACROSS)]

    def sizes(members: list[D]) -> list[int]:
        domains = members[0].domains[tier:]
        return [len(members), *(counts[domain] for counts, domain in zip(wider, domains, strict=False))]

    return min(sets, key=sizes)


def _domains_at(devices: Sequence[D], tier: int) -> list[list[D]]:
    """The devices by domain; without links they are together at the last tier alone."""
    if tier == ACROSS:
        return [list(devices)] if devices else []
    sets: dict[int, list[D]] = defaultdict(list)
    for device in devices:
        if device.domains:
            sets[device.domains[tier]].append(device)
    return list(sets.values())


def _narrowed(devices: Sequence[D], count: int, tier: int) -> list[D]:
    """`count` of these, in as few domains of the tighter tiers as can be."""
    if tier < 0 or len(devices) == count or not all(device.domains for device in devices):
        return list(devices[:count])
    sets = sorted(_domains_at(devices, tier), key=len, reverse=True)
    chosen: list[D] = []
    while len(chosen) < count:
        missing = count - len(chosen)
        enough = [members for members in sets if len(members) >= missing]
        members = enough[-1] if enough else sets[0]
        sets.remove(members)
        chosen += _narrowed(members, min(missing, len(members)), tier - 1)
    return chosen


class _Union:
    """Disjoint sets; the number of a set is the position of its first member."""

    def __init__(self, members: Sequence[str]) -> None:
        self._parents = {member: member for member in members}
        self._positions = {member: position for position, member in enumerate(members)}

    def _root(self, member: str) -> str:
        while self._parents[member] != member:
            member = self._parents[member]
        return member

    def join(self, one: str, other: str) -> None:
        first, second = sorted((self._root(one), self._root(other)), key=self._positions.__getitem__)
        self._parents[second] = first

    def number(self, member: str) -> int:
        return self._positions[self._root(member)]
