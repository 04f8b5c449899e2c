"""Placement over a long life of a fleet: what is remembered of nodes never differs from what is worked out anew."""

from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace as changed

from gpu.placement import after, find, place
from gpu.requests import PlacementRequest, Plan, Rejection
from gpu.snapshot import ComputeSnapshot, DeviceView
from gpu.states import DeviceState
from tests.gpu.fleets import GIB, device, node, request, snapshot


def fresh(fleet: ComputeSnapshot) -> ComputeSnapshot:
    """The same, with nothing remembered."""
    nodes = tuple(replace(host, devices=tuple(changed(member) for member in host.devices)) for host in fleet.nodes)
    return ComputeSnapshot(fleet.pools, nodes, fleet.mix)


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.fleet = snapshot(
            node("n1"),
            *(device(index, "n1", domains=(index // 2, index // 4, 0)) for index in range(4)),
            node("n2", memory_bytes=8 * GIB),
            *(device(index, "n2", model="H100", memory_bytes=80 * GIB) for index in range(4)),
        )
        self.held: dict[str, tuple[PlacementRequest, Plan]] = {}
        self.number = 0

    @rule(
        devices=st.integers(1, 4),
        share=st.sampled_from([100, 100, 50, 30]),
        memory=st.sampled_from([0, 10 * GIB, 30 * GIB]),
    )
    def place(self, devices: int, share: int, memory: int) -> None:
        wanted = request(devices=devices if share == 100 else 1, device_share=share, device_memory_bytes=memory)
        answer = place(self.fleet, wanted)
        if isinstance(answer, Rejection):
            assert find(fresh(self.fleet), wanted) is None
            return
        assert answer == find(fresh(self.fleet), wanted)
        self.number += 1
        name = f"rpl_{self.number}"
        self.fleet = after(self.fleet, name, wanted, answer)
        self.held[name] = (wanted, answer)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        wanted, plan = self.held.pop(name)
        host = self.fleet.nodes[self.fleet.positions[plan.node_id]]
        self.fleet = self.fleet.with_node(
            replace(
                host,
                memory_claimed=host.memory_claimed - wanted.memory_bytes,
                devices=tuple(
                    changed(member, leases=tuple(lease for lease in member.leases if lease.replica_id != name))
                    for member in host.devices
                ),
            )
        )

    @rule(
        which=st.integers(0, 7),
        change=st.sampled_from(
            [
                {"cordoned": "a new riser"},
                {"cordoned": None},
                {"reserved": "ten_b"},
                {"reserved": None},
                {"state": DeviceState.fenced},
                {"state": DeviceState.healthy},
                {"memory_foreign": 20 * GIB},
                {"memory_foreign": 0},
            ]
        ),
    )
    def change_device(self, which: int, change: dict[str, Any]) -> None:
        host = self.fleet.nodes[which // 4]
        devices: list[DeviceView] = list(host.devices)
        devices[which % 4] = changed(devices[which % 4], **change)
        self.fleet = self.fleet.with_node(replace(host, devices=tuple(devices)))

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        assert all(member.leased <= 100 for member in self.fleet.devices)
        assert all(0 <= host.memory_claimed <= host.memory_bytes for host in self.fleet.nodes)
        leases = {(lease.replica_id, member.id) for member in self.fleet.devices for lease in member.leases}
        assert leases == {(name, id_) for name, (_, plan) in self.held.items() for id_ in plan.device_ids}

    @invariant()
    def gangs_are_whole_and_equal(self) -> None:
        for wanted, plan in self.held.values():
            members = [member for member in self.fleet.devices if member.id in plan.device_ids]
            assert len(members) == wanted.devices
            assert len({(member.node_id, member.vendor, member.model) for member in members}) == 1


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
