"""The sentence that a person reads when a request fits nowhere."""

from collections.abc import Sequence
from typing import Any

import pytest

from gpu.placement import place
from gpu.requests import Cause, Rejection
from gpu.snapshot import DeviceView, NodeView
from gpu.states import DeviceState, NodeState
from tests.gpu.fleets import GIB, device, held, node, request, snapshot

CASES: list[tuple[str, Sequence[NodeView | DeviceView], dict[str, Any]]] = [
    (
        "the model needs 26.1 GiB, the largest free device of pool default has 23.7 GiB",
        [
            node(),
            device(memory_bytes=int(23.7 * GIB)),
            device(1, memory_bytes=80 * GIB, leases=held("rpl_x")),
            device(2, memory_bytes=80 * GIB, state=DeviceState.fenced),
        ],
        {"devices": 1, "device_memory_bytes": int(26.1 * GIB)},
    ),
    (
        "the model needs 9.0 GiB, the largest free device of pool default has 8.0 GiB (other programs hold 16.0 GiB)",
        [node(), device(memory_foreign=16 * GIB)],
        {"devices": 1, "device_memory_bytes": 9 * GIB},
    ),
    (
        "the model needs 24.02 GiB on each of 2 devices, the largest free device of pool default has 24.00 GiB",
        [node(), device(0), device(1)],
        {"devices": 2, "device_memory_bytes": int(24.02 * GIB)},
    ),
    (
        "pool default has no device of vendor nvidia",
        [node(), device(vendor="iluvatar")],
        {"devices": 1, "vendors": ("nvidia",)},
    ),
    (
        "pool default has no device of vendor nvidia or iluvatar",
        [node()],
        {"devices": 1, "vendors": ("nvidia", "iluvatar", "cpu")},
    ),
    ("pool default has no device", [node()], {"devices": 1}),
    (
        "pool default has no free device of vendor nvidia: 1 fenced, 2 held by replicas",
        [node(), device(0, leases=held("a")), device(1, leases=held("b")), device(2, state=DeviceState.fenced)],
        {"devices": 1, "vendors": ("nvidia",)},
    ),
    (
        "pool default has no free device: 1 cordoned, 2 reserved for others",
        [node(), device(0, reserved="ten_b"), device(1, reserved="ten_b", leases=held("b")), device(2, cordoned="fan")],
        {"devices": 1},
    ),
    (
        "no device of pool default may be used (BI-V150: TianGai devices run normal mode only)",
        [node(), device(vendor="iluvatar", model="BI-V150")],
        {"devices": 1, "excluded_models": {"BI-V150": "TianGai devices run normal mode only"}},
    ),
    (
        "2 equal free devices on one node are needed; the most that a node of pool default has is 1",
        [node("n1"), device(0, "n1"), device(1, "n1", model="H100"), node("n2"), device(0, "n2")],
        {"devices": 2},
    ),
    (
        "4.0 GiB of a node's memory are needed; the most that a node of pool default has free is 1.2 GiB",
        [node(memory_claimed=int(62.8 * GIB))],
        {"memory_bytes": 4 * GIB},
    ),
    (
        "4.0 GiB of a node's memory are needed; the most that a node of pool default has free is 2.0 GiB",
        [node("n1", memory_bytes=GIB), node("n2", memory_bytes=2 * GIB)],
        {"memory_bytes": 4 * GIB},
    ),
    (
        "2.5 CPUs on one node are needed; the most that a node of pool default has is 1 CPU",
        [node(cpus=1.0)],
        {"cpus": 2.5},
    ),
    (
        "no node of pool default answers",
        [node(state=NodeState.stale, reason="not seen for 5 minutes")],
        {},
    ),
    ("pool default has no node", [node(pool_id="pol_b")], {}),
    ("there is no pool 'pol_gone'", [node()], {"pool_id": "pol_gone"}),
]


@pytest.mark.parametrize(("sentence", "members", "wanted"), CASES)
def test_sentence(sentence: str, members: Sequence[NodeView | DeviceView], wanted: dict[str, Any]) -> None:
    answer = place(snapshot(*members), request(**wanted))
    assert isinstance(answer, Rejection)
    assert answer.sentence == sentence


def test_the_reasons_are_grouped_by_cause() -> None:
    answer = place(
        snapshot(node(), device(0, leases=held("a")), device(1, leases=held("b")), device(2, memory_bytes=GIB)),
        request(devices=1, device_memory_bytes=2 * GIB),
    )
    assert isinstance(answer, Rejection)
    assert [(reason.cause, reason.devices, reason.text) for reason in answer.reasons] == [
        (Cause.device_held, ("dev_n1_0", "dev_n1_1"), "2 devices held by other replicas"),
        (
            Cause.device_memory,
            ("dev_n1_2",),
            "1 device with less memory than the 2.0 GiB needed, without what others hold of it",
        ),
    ]


@pytest.mark.parametrize(
    ("members", "asked"),
    [
        ([node("secret", state=NodeState.stale, reason="secret")], {}),
        ([node("secret", cordoned="secret")], {}),
        ([node("secret", cpus=1.0)], {"cpus": 4.0}),
        ([node("secret")], {"memory_bytes": 1 << 50}),
        ([node("secret"), device(0, "secret", cordoned="secret", reason="secret")], {"devices": 1}),
        ([node("secret"), device(0, "secret", leases=held("rpl_x"))], {"devices": 1}),
        ([node("secret"), device(0, "secret", reserved="secret")], {"devices": 1}),
        ([node("secret"), device(0, "secret"), device(1, "secret", model="H100")], {"devices": 2}),
        ([node("secret"), device(0, "secret")], {"devices": 1, "device_memory_bytes": 1 << 50}),
    ],
)
def test_what_tenants_read_names_no_node_and_quotes_no_administrator(
    members: Sequence[NodeView | DeviceView], asked: dict[str, Any]
) -> None:
    rejection = place(snapshot(*members), request(**asked))
    assert isinstance(rejection, Rejection)
    texts = [rejection.sentence, *(each.text for each in (*rejection.reasons, *rejection.remedies))]
    assert not [text for text in texts if "secret" in text]
