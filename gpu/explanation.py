"""Why a request fits nowhere: every cause with what it rules out, and one sentence for a person. Pure.

Sentences go to tenants: they tell of pools and numbers, and neither the names of nodes nor what administrators wrote.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace as with_changed

from gpu.requests import Cause, PlacementRequest, Reason, Rejection
from gpu.snapshot import ComputeSnapshot, DeviceView, NodeView, PoolView
from gpu.states import WHOLE, DeviceState, NodeState, Vendor
from gpu.wording import compared, counted, either, gib, listed, number

_Devices = Mapping[str, Sequence[DeviceView]]


def explain(snapshot: ComputeSnapshot, request: PlacementRequest) -> Rejection:
    """The rejection of a request that fits nowhere."""
    pool = next((pool for pool in snapshot.pools if pool.id == request.pool_id), None)
    if pool is None:
        text = f"there is no pool {request.pool_id!r}"
        return Rejection(text, (Reason(cause=Cause.no_pool, text=text),))
    nodes = sorted(candidates(snapshot, request), key=lambda node: (node.name, node.id))
    if not nodes:
        text = f"pool {pool.name} has no node"
        return Rejection(text, (Reason(cause=Cause.no_node, text=text),))
    devices = {node.id: sorted(node.devices_in(pool.id), key=_order) for node in nodes}
    return Rejection(_sentence(pool, nodes, devices, request), tuple(_reasons(nodes, devices, request)))


def _order(device: DeviceView) -> tuple[int, str]:
    return device.index, device.id


def candidates(snapshot: ComputeSnapshot, request: PlacementRequest) -> Iterable[NodeView]:
    """The nodes of the pool; for what needs devices, those too of which a device is in the pool."""
    for node in snapshot.nodes:
        if node.pool_id == request.pool_id or (request.devices and node.serves(request.pool_id)):
            yield node


def obstacles(device: DeviceView, request: PlacementRequest) -> Iterator[Cause]:
    """Everything that keeps a device from this request."""
    if request.vendors and device.vendor not in request.vendors:
        yield Cause.device_vendor
    if device.model in request.excluded_models:
        yield Cause.device_model
    if device.state is not DeviceState.healthy:
        yield Cause.device_state
    if device.cordoned is not None:
        yield Cause.device_cordoned
    if device.reserved is not None:
        yield Cause.device_reserved
    if device.leased + request.device_share > WHOLE:
        yield Cause.device_held
        if _bytes_offered(device, request) < request.device_memory_bytes:
            yield Cause.device_memory
    elif device.usable(request.device_share) < request.device_memory_bytes:
        yield Cause.device_memory


def _bytes_offered(device: DeviceView, request: PlacementRequest) -> int:
    """What the device could give a replica if no other held any of it."""
    return with_changed(device, leases=()).usable(request.device_share)


def _reasons(nodes: Sequence[NodeView], devices: _Devices, request: PlacementRequest) -> Iterator[Reason]:
    by_node: dict[Cause, list[str]] = defaultdict(list)
    by_device: dict[Cause, list[str]] = defaultdict(list)
    for node in nodes:
        for cause in _node_obstacles(node, devices[node.id], request):
            by_node[cause].append(node.id)
        for device in devices[node.id] if request.devices else ():
            for cause in obstacles(device, request):
                by_device[cause].append(device.id)
    texts = _texts(request)
    for cause in Cause:
        if cause in by_node:
            subject = counted(len(by_node[cause]), "node")
            yield Reason(cause=cause, nodes=tuple(by_node[cause]), text=f"{subject} {texts[cause]}")
        if cause in by_device:
            subject = counted(len(by_device[cause]), "device")
            yield Reason(cause=cause, devices=tuple(by_device[cause]), text=f"{subject} {texts[cause]}")


def _texts(request: PlacementRequest) -> dict[Cause, str]:
    """What is wrong with `n nodes` or `n devices`; each text follows that subject."""
    memory, _ = compared(request.memory_bytes, 0)
    on_device, _ = compared(request.device_memory_bytes, 0)
    excluded = "; ".join(sorted(set(request.excluded_models.values())))
    return {
        Cause.node_state: "not answering",
        Cause.node_cordoned: "cordoned",
        Cause.node_labels: f"without the labels {_labels(request)}",
        Cause.node_cpus: f"with fewer than the {number(request.cpus)} CPUs needed",
        Cause.node_memory: f"with less free memory than the {memory} needed",
        Cause.device_count: f"with fewer than {request.devices} equal devices that may be used",
        Cause.device_vendor: f"not of vendor {_vendors(request)}",
        Cause.device_model: f"ruled out: {excluded}",
        Cause.device_state: "fenced, stale or absent",
        Cause.device_cordoned: "cordoned",
        Cause.device_reserved: "reserved for others",
        Cause.device_held: "held by other replicas"
        if request.device_share == WHOLE
        else f"of which less than {request.device_share} % is free",
        Cause.device_memory: f"with less memory than the {on_device} needed, without what others hold of it",
    }


def _node_obstacles(node: NodeView, devices: Sequence[DeviceView], request: PlacementRequest) -> Iterator[Cause]:
    if node.state is not NodeState.ready:
        yield Cause.node_state
    if node.cordoned is not None:
        yield Cause.node_cordoned
    if not node.has_labels(request.node_labels):
        yield Cause.node_labels
    if node.cpus < request.cpus:
        yield Cause.node_cpus
    if node.memory_free < request.memory_bytes:
        yield Cause.node_memory
    if (
        request.devices
        and _largest_group(device for device in devices if _admissible(device, request)) < request.devices
    ):
        yield Cause.device_count


def _admissible(device: DeviceView, request: PlacementRequest) -> bool:
    """Whether waiting or repair could make the device usable; its vendor and model do not change."""
    return (not request.vendors or device.vendor in request.vendors) and device.model not in request.excluded_models


def _largest_group(devices: Iterator[DeviceView]) -> int:
    return max(Counter((device.vendor, device.model) for device in devices).values(), default=0)


def _sentence(pool: PoolView, nodes: Sequence[NodeView], devices: _Devices, request: PlacementRequest) -> str:
    """The causes are tried from the coarsest on; each leaves the nodes that still could do."""
    ready = [node for node in nodes if node.state is NodeState.ready]
    if not ready:
        return f"no node of pool {pool.name} answers"
    if not (labelled := [node for node in ready if node.has_labels(request.node_labels)]):
        return f"no node of pool {pool.name} has the labels {_labels(request)}"
    if not (ready := [node for node in labelled if node.cordoned is None]):
        return f"every node of pool {pool.name} that could do is cordoned for maintenance"
    if request.devices:
        about_devices = _device_sentence(pool, ready, devices, request)
        if about_devices:
            return about_devices
        ready = [node for node in ready if _usable_group(devices[node.id], request) >= request.devices]
    return _node_sentence(pool, ready, request)


def _device_sentence(pool: PoolView, nodes: Sequence[NodeView], devices: _Devices, request: PlacementRequest) -> str:
    kind = f" of vendor {_vendors(request)}" if request.vendors else ""
    known = [device for node in nodes for device in devices[node.id]]
    allowed = [device for device in known if not request.vendors or device.vendor in request.vendors]
    if not allowed:
        return f"pool {pool.name} has no device{kind}"
    admissible = [device for device in allowed if device.model not in request.excluded_models]
    if not admissible:
        why = listed(sorted({f"{device.model}: {request.excluded_models[device.model]}" for device in allowed}))
        return f"no device of pool {pool.name} may be used ({why})"
    free = [device for device in admissible if device.is_open and device.leased + request.device_share <= WHOLE]
    if not free:
        counts = Counter(_why_not_free(device) for device in admissible)
        detail = listed([f"{count} {what}" for what, count in sorted(counts.items())])
        what = "free device" if request.device_share == WHOLE else f"device with {request.device_share} % free"
        return f"pool {pool.name} has no {what}{kind}: {detail}"
    if max(device.usable(request.device_share) for device in free) < request.device_memory_bytes:
        return _too_small(pool, free, request)
    most = max(_usable_group(devices[node.id], request) for node in nodes)
    if most < request.devices:
        return (
            f"{request.devices} equal free devices{kind} on one node are needed; the most that a node of pool "
            f"{pool.name} has is {most}"
        )
    return ""


def _too_small(pool: PoolView, free: Sequence[DeviceView], request: PlacementRequest) -> str:
    largest = max(device.usable(request.device_share) for device in free)
    needed, has = compared(request.device_memory_bytes, largest)
    each = f" on each of {request.devices} devices" if request.devices > 1 else ""
    most = "the largest free device"
    if request.device_share < WHOLE:
        most = f"{request.device_share} % of the largest device with room"
    of = "of" if request.device_share == WHOLE else "in"
    return f"the model needs {needed}{each}, {most} {of} pool {pool.name} has {has}{_others(free)}"


def _why_not_free(device: DeviceView) -> str:
    if device.state is not DeviceState.healthy:
        return str(device.state)
    if device.cordoned is not None:
        return "cordoned"
    return "reserved for others" if device.reserved is not None else "held by replicas"


def _labels(request: PlacementRequest) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(request.node_labels.items()))


def _others(free: Sequence[DeviceView]) -> str:
    """What of the free devices' memory is not free, because others than the appliance use it."""
    held = sum(device.memory_foreign for device in free)
    return f" (other programs hold {gib(held)})" if held else ""


def _vendors(request: PlacementRequest) -> str:
    """The vendors of devices that are allowed; running without one is not a vendor of devices."""
    return either([vendor for vendor in request.vendors if vendor != Vendor.cpu])


def _usable_group(devices: Sequence[DeviceView], request: PlacementRequest) -> int:
    return _largest_group(device for device in devices if not any(obstacles(device, request)))


def _node_sentence(pool: PoolView, nodes: Sequence[NodeView], request: PlacementRequest) -> str:
    quick = [node for node in nodes if node.cpus >= request.cpus]
    if not quick:
        most = counted(max(node.cpus for node in nodes), "CPU")
        needed = counted(request.cpus, "CPU")
        return f"{needed} on one node are needed; the most that a node of pool {pool.name} has is {most}"
    needed, free = compared(request.memory_bytes, max(node.memory_free for node in quick))
    return f"{needed} of a node's memory are needed; the most that a node of pool {pool.name} has free is {free}"
