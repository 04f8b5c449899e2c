"""Which replica a request goes to: by weight, by kinship, by load, by name."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.gateway.plane import wire
from appliance.gateway.plane.backends import Backends, Replica
from appliance.gateway.plane.balance import LEAST_BOUND, bound, choose, pick
from appliance.gateway.plane.defaults import prepare
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.request import Request
from appliance.gateway.plane.tables import DeploymentTable, ServiceTable
from tests.plane import parts
from tests.plane.parts import backends

NOW = 1000.0


def deployment(name: str, weight: float, count: int, most: int | None = None) -> wire.Deployment:
    replicas = [wire.Replica(f"rpl_{name}_{number}", "", max_in_flight=most) for number in range(count)]
    return wire.Deployment(f"dep_{name}", name, weight, replicas)


class Service:
    """Its replicas by id, and requests to it."""

    def __init__(self, *deployments: wire.Deployment, **changes: Any) -> None:
        self.shard = parts.shard(deployments=list(deployments), **changes)
        self.backends = backends()
        self.table = ServiceTable(self.shard, self.backends)
        self.replicas = {replica.id: replica for replica in self.backends}

    def request(self, prompt: str = "hi", key: str = "key_1", **fields: str) -> Request:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        asked = parts.request(self.shard, parts.principal(key_id=key), fields=named)
        asked.service = self.table
        asked.prepared = prepare(asked, parts.chat(messages=[{"role": "user", "content": prompt}]))
        return asked

    def choose(self, prompt: str = "hi", key: str = "key_1", **fields: str) -> Replica | None:
        return choose(self.request(prompt, key, **fields), NOW)

    def ids(self, times: int, **fields: str) -> Counter[str]:
        asked = self.request(**fields)
        chosen = [choose(asked, NOW) for _ in range(times)]
        return Counter(each.id for each in chosen if each is not None)

    def fill(self, replica_id: str, requests: int = 1) -> None:
        for _ in range(requests):
            self.backends.begin(self.replicas[replica_id])

    def eject(self, replica_id: str, until: float = NOW + 1) -> None:
        self.replicas[replica_id].down_until = until


def refusal(service: Service, **fields: str) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        service.choose(**fields)
    return caught.value.status, caught.value.code


# Deployments


def test_traffic_is_split_by_weight_and_nothing_goes_to_weight_zero() -> None:
    service = Service(deployment("a", 75, 1), deployment("b", 25, 2), deployment("c", 0, 1))
    counts = service.ids(4000)
    assert counts["rpl_a_0"] / 4000 == pytest.approx(0.75, abs=0.04)
    assert counts["rpl_b_0"] + counts["rpl_b_1"] == 4000 - counts["rpl_a_0"]


def test_deployment_that_cannot_take_it_gives_its_share_to_the_others() -> None:
    service = Service(deployment("a", 90, 1, most=1), deployment("b", 10, 1))
    service.fill("rpl_a_0")
    assert service.ids(50) == {"rpl_b_0": 50}
    service = Service(deployment("a", 90, 0), deployment("b", 10, 1))
    assert service.ids(50) == {"rpl_b_0": 50}


def test_ejected_deployment_is_not_preferred_to_a_healthy_one() -> None:
    service = Service(deployment("a", 90, 1), deployment("b", 10, 1))
    service.eject("rpl_a_0")
    assert service.ids(50) == {"rpl_b_0": 50}


def test_deployment_is_addressed_by_name_or_id_at_any_weight() -> None:
    service = Service(deployment("a", 100, 2), deployment("b", 0, 2))
    for name in ("b", "dep_b"):
        for header in ("x_appliance_deployment", "azureml_model_deployment"):
            assert all(each.startswith("rpl_b") for each in service.ids(20, **{header: name}))


@pytest.mark.parametrize("name", ["c", "dep_c", "A", "rpl_a_0"])
def test_unknown_deployment_is_not_found(name: str) -> None:
    service = Service(deployment("a", 100, 1))
    assert refusal(service, x_appliance_deployment=name) == (404, "deployment_not_found")


def test_addressed_deployment_is_not_replaced_by_another() -> None:
    service = Service(deployment("a", 100, 1), deployment("b", 0, 0))
    assert refusal(service, x_appliance_deployment="b") == (503, "no_replica")
    service = Service(deployment("a", 100, 1), deployment("b", 0, 1, most=1))
    service.fill("rpl_b_0")
    assert service.choose(x_appliance_deployment="b") is None


# Full and ejected


@pytest.mark.parametrize("deployments", [(), (deployment("a", 0, 1),), (deployment("a", 100, 0),)])
def test_nobody_there_is_refused(deployments: tuple[wire.Deployment, ...]) -> None:
    assert refusal(Service(*deployments)) == (503, "no_replica")


@pytest.mark.parametrize("count", [1, 3])
def test_full_replicas_are_waited_for(count: int) -> None:
    service = Service(deployment("a", 100, count, most=2))
    for replica_id in service.replicas:
        service.fill(replica_id, 2)
    assert service.choose() is None


def test_full_replicas_are_waited_for_rather_than_ejected_ones_tried() -> None:
    service = Service(deployment("a", 100, 2, most=1))
    service.fill("rpl_a_0")
    service.eject("rpl_a_1")
    assert service.choose() is None


@pytest.mark.parametrize("count", [1, 3])
def test_where_all_are_ejected_one_is_tried_all_the_same(count: int) -> None:
    service = Service(deployment("a", 100, count))
    for number in range(count):
        service.eject(f"rpl_a_{number}", NOW + 10 - number)
    chosen = service.choose()
    assert chosen is not None
    assert chosen.id == f"rpl_a_{count - 1}"  # it was to return the soonest


def test_each_replica_is_tried_once() -> None:
    service = Service(deployment("a", 100, 2))
    asked = service.request()
    first = choose(asked, NOW)
    assert first is not None
    second = choose(asked, NOW, frozenset({first.id}))
    assert second is not None
    assert second is not first
    with pytest.raises(Refusal):
        choose(asked, NOW, frozenset({first.id, second.id}))


# Kin


def test_without_affinity_the_least_loaded_gets_it_and_equals_take_turns() -> None:
    service = Service(deployment("a", 100, 3), affinity="none")
    assert set(service.ids(300).values()) == {100}
    service.fill("rpl_a_0", 2)
    service.fill("rpl_a_1", 1)
    assert service.ids(20) == {"rpl_a_2": 20}


def test_prompts_that_begin_alike_meet_while_load_allows() -> None:
    service = Service(deployment("a", 100, 4))
    (home,) = service.ids(50)
    assert len({each.id for number in range(50) if (each := service.choose(f"prompt {number}"))}) == 4
    service.fill(home, LEAST_BOUND)
    (next_home,) = service.ids(50)
    assert next_home != home


@pytest.mark.parametrize("fields", [{"x_appliance_session": "s-1"}, {}])
def test_sessions_and_keys_stick_at_any_load_to_one_deployment_and_replica(fields: dict[str, str]) -> None:
    service = Service(deployment("a", 50, 3), deployment("b", 50, 3), affinity="none" if fields else "key")
    ((home, _),) = service.ids(50, **fields).items()
    service.fill(home, 20)
    assert service.ids(50, **fields) == {home: 50}
    service.eject(home)
    ((refuge, _),) = service.ids(50, **fields).items()
    assert refuge[:5] == home[:5]


def test_keys_and_sessions_are_spread() -> None:
    service = Service(deployment("a", 50, 2), deployment("b", 50, 2), affinity="key")
    by_key = {each.id for number in range(60) if (each := service.choose(key=f"key_{number}"))}
    by_session = {each.id for number in range(60) if (each := service.choose(x_appliance_session=f"s-{number}"))}
    assert len(by_key) == len(by_session) == 4


def test_point_is_made_only_where_it_decides() -> None:
    for service in (Service(deployment("a", 100, 1)), Service(deployment("a", 100, 2), affinity="none")):
        prepared = service.request().prepared
        assert prepared is not None
        assert prepared.point is None


# Bounded loads


def table(count: int, known: Backends) -> DeploymentTable:
    return DeploymentTable(deployment("a", 100, count), known)


@settings(max_examples=60)
@given(st.integers(2, 12), st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=300))
def test_no_replica_gets_a_request_above_its_bound(count: int, steps: list[tuple[int, bool]]) -> None:
    """However few points the requests have, and in whatever order they come and end."""
    known = backends()
    of = table(count, known)
    running: list[Replica] = []
    for point, ends in steps:
        if ends and running:
            known.end(running.pop(point % len(running)))
            continue
        before, most = sum(each.in_flight for each in of.replicas), bound(of.replicas)
        chosen = pick(of, point << 30, NOW)
        assert chosen is not None
        assert chosen.in_flight < most
        assert most <= max(LEAST_BOUND, 1.5 * (before + 1) / count + 1)
        known.begin(chosen)
        running.append(chosen)
    assert all(each.in_flight == running.count(each) for each in of.replicas)


@given(st.integers(2, 12), st.data())
def test_full_and_ejected_replicas_get_nothing_and_the_others_are_bounded_among_themselves(
    count: int, data: st.DataObject
) -> None:
    known = backends()
    of = table(count, known)
    for replica in of.replicas:
        for _ in range(data.draw(st.integers(0, 4))):
            known.begin(replica)
        replica.max_in_flight = data.draw(st.sampled_from([None, 2, 4]))
        replica.down_until = data.draw(st.sampled_from([0.0, NOW - 1, NOW + 1]))
    eligible = [each for each in of.replicas if each.is_eligible(NOW)]

    chosen = pick(of, data.draw(st.integers(0, (1 << 32) - 1)), NOW)

    if not eligible:
        assert chosen is None
    else:
        assert chosen in eligible
        assert len(eligible) == 1 or chosen.in_flight < bound(eligible)
