"""Snapshots for tests: by hand, and drawn by hypothesis."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from gpu.requests import PlacementRequest, Strategy
from gpu.snapshot import ComputeSnapshot, DeviceView, LeaseView, NodeView, PoolView
from gpu.states import DeviceState, NodeState

GIB = 1024**3
POOL = PoolView("pol_a", "default")
OTHER = PoolView("pol_b", "other")


def node(name: str = "n1", **members: Any) -> NodeView:
    defaults: dict[str, Any] = {"pool_id": POOL.id, "cpus": 16.0, "memory_bytes": 64 * GIB}
    return NodeView(id=f"nod_{name}", name=name, **(defaults | members))


def device(index: int = 0, on: str = "n1", **members: Any) -> DeviceView:
    defaults: dict[str, Any] = {"vendor": "nvidia", "model": "L4", "memory_bytes": 24 * GIB}
    return DeviceView(
        id=f"dev_{on}_{index}", node_id=f"nod_{on}", index=index, uuid=f"GPU-{on}-{index}", **(defaults | members)
    )


def snapshot(*members: NodeView | DeviceView) -> ComputeSnapshot:
    devices: dict[str, list[DeviceView]] = defaultdict(list)
    for member in members:
        if isinstance(member, DeviceView):
            devices[member.node_id].append(member)
    nodes = [member for member in members if isinstance(member, NodeView)]
    return ComputeSnapshot((POOL, OTHER), tuple(replace(host, devices=tuple(devices[host.id])) for host in nodes))


def held(*replicas: str, share: int = 100) -> tuple[LeaseView, ...]:
    return tuple(LeaseView(replica, share) for replica in replicas)


def request(**members: Any) -> PlacementRequest:
    return PlacementRequest(**({"pool_id": POOL.id, "cpus": 1.0, "memory_bytes": GIB} | members))


_sizes = st.sampled_from([0, 1, 16, 24, 80]).map(lambda size: size * GIB)
_models = st.sampled_from(["L4", "H100", "MR-V100", "BI-V150"])
_vendors = st.sampled_from(["nvidia", "iluvatar"])
_leases = [(), (), held("rpl_x"), held("rpl_y", share=25), (*held("rpl_x", share=50), *held("rpl_z", share=30))]


@st.composite
def nodes(draw: st.DrawFn, number: int) -> NodeView:
    memory = draw(_sizes)
    return node(
        f"n{number}",
        pool_id=draw(st.sampled_from([POOL.id, POOL.id, POOL.id, OTHER.id])),
        state=draw(st.sampled_from([NodeState.ready, NodeState.ready, NodeState.stale])),
        cpus=draw(st.sampled_from([1.0, 2.5, 16.0])),
        memory_bytes=memory,
        memory_claimed=draw(st.sampled_from([0, memory // 2, memory])),
        cordoned=draw(st.sampled_from([None, None, None, "a new fan"])),
        labels=draw(st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}])),
    )


@st.composite
def devices(draw: st.DrawFn, on: str, index: int) -> DeviceView:
    return device(
        index,
        on,
        vendor=draw(_vendors),
        model=draw(_models),
        memory_bytes=draw(_sizes),
        memory_foreign=draw(st.sampled_from([0, 0, 10 * GIB])),
        state=draw(st.sampled_from([DeviceState.healthy, DeviceState.healthy, *DeviceState])),
        leases=draw(st.sampled_from(_leases)),
        cordoned=draw(st.sampled_from([None, None, None, "a new riser"])),
        pool_id=draw(st.sampled_from([None, None, None, POOL.id, OTHER.id])),
        reserved=draw(st.sampled_from([None, None, None, "ten_x"])),
        domains=draw(st.sampled_from([(), (0, 0, 0), (index // 2, 0, 0), (index, index, index // 2)])),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> ComputeSnapshot:
    members: list[NodeView | DeviceView] = []
    for number in range(draw(st.integers(0, 4))):
        members.append(draw(nodes(number)))
        members.extend(draw(devices(f"n{number}", index)) for index in range(draw(st.integers(0, 4))))
    return snapshot(*members)


@st.composite
def wanted(draw: st.DrawFn) -> PlacementRequest:
    devices = draw(st.integers(0, 3))
    return PlacementRequest(
        pool_id=draw(st.sampled_from([POOL.id, POOL.id, POOL.id, "pol_none"])),
        devices=devices,
        device_share=draw(st.sampled_from([100, 50, 25])) if devices == 1 else 100,
        vendors=draw(st.lists(_vendors, unique=True, max_size=2).map(tuple)),
        excluded_models=draw(st.sampled_from([{}, {}, {"BI-V150": "TianGai devices run normal mode only"}])),
        device_memory_bytes=draw(_sizes),
        cpus=draw(st.sampled_from([0.5, 2.0, 16.0])),
        memory_bytes=draw(_sizes),
        node_labels=draw(st.sampled_from([{}, {}, {"zone": "a"}])),
        strategy=draw(st.sampled_from(Strategy)),
        siblings=draw(st.dictionaries(st.sampled_from(["nod_n0", "nod_n1"]), st.integers(1, 3))),
        other_pools=(OTHER.id,),
    )


requests = wanted()
