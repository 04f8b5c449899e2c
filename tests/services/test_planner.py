"""The planner brings every service to what is desired, and then leaves it alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from appliance.services.planner import Add, DeploymentFacts, Forget, ReplicaFacts, Retire, ServiceFacts, plan, summarise
from appliance.services.states import ENDED, LEAVING, Desired, ReplicaState, ServiceState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
states = st.sampled_from(list(ReplicaState))


def service(desired: Desired, deployments: list[DeploymentFacts], replicas: list[ReplicaFacts]) -> ServiceFacts:
    return ServiceFacts("svc", desired, deployments, replicas)


def one(replicas: int, **facts: object) -> DeploymentFacts:
    return DeploymentFacts("dep", 1, replicas, **facts)  # type: ignore[arg-type]


def replica(number: int, state: ReplicaState, generation: int = 1) -> ReplicaFacts:
    return ReplicaFacts(f"rpl_{number}", "dep", generation, state)


def test_missing_replicas_are_added() -> None:
    assert plan(service(Desired.running, [one(3)], [replica(1, ReplicaState.ready)]), NOW) == [Add("dep", 2)]


def test_nothing_is_added_before_the_backoff_is_over() -> None:
    waiting = one(1, failures=2, next_start_at=NOW + timedelta(seconds=1))
    assert plan(service(Desired.running, [waiting], []), NOW) == []
    assert plan(service(Desired.running, [waiting], []), NOW + timedelta(seconds=1)) == [Add("dep", 1)]


def test_those_that_serve_least_go_first() -> None:
    replicas = [replica(1, ReplicaState.ready), replica(2, ReplicaState.starting), replica(3, ReplicaState.ready)]
    assert plan(service(Desired.running, [one(1)], replicas), NOW) == [Retire("rpl_2"), Retire("rpl_3")]


def test_an_outdated_generation_is_replaced() -> None:
    old = ReplicaFacts("rpl_1", "dep", 1, ReplicaState.ready)
    new = DeploymentFacts("dep", 2, 1)
    assert plan(service(Desired.running, [new], [old]), NOW) == [Retire("rpl_1"), Add("dep", 1)]


def test_who_leaves_is_waited_for_before_another_comes() -> None:
    leaving = [replica(1, ReplicaState.draining), replica(2, ReplicaState.stopping)]
    facts = service(Desired.running, [one(2)], leaving)
    assert plan(facts, NOW) == []
    assert summarise(facts).reason == "2 former replicas are still stopping"
    assert plan(service(Desired.running, [one(3)], leaving), NOW) == [Add("dep", 1)]
    old = [replica(1, ReplicaState.draining, generation=0)]
    assert plan(service(Desired.running, [one(1)], old), NOW) == [Add("dep", 1)]


def test_a_replica_that_may_not_stay_goes_and_its_successor_waits_for_it() -> None:
    unfit = ReplicaFacts("rpl_1", "dep", 1, ReplicaState.ready, unfit="its device 0 is fenced: too hot")
    well = replica(2, ReplicaState.ready)
    assert plan(service(Desired.running, [one(2)], [unfit, well]), NOW) == [Retire("rpl_1", unfit.unfit)]
    leaving = ReplicaFacts("rpl_1", "dep", 1, ReplicaState.draining, unfit=unfit.unfit)
    assert plan(service(Desired.running, [one(2)], [leaving, well]), NOW) == []
    assert plan(service(Desired.running, [one(2)], [well]), NOW) == [Add("dep", 1)]
    assert plan(service(Desired.running, [one(1)], [unfit, well]), NOW) == [Retire("rpl_1", unfit.unfit)]
    assert plan(service(Desired.stopped, [one(1)], [unfit]), NOW) == [Retire("rpl_1")]


def test_a_deleted_service_is_forgotten_only_when_nothing_is_left() -> None:
    leaving = service(Desired.deleted, [one(1)], [replica(1, ReplicaState.stopping)])
    assert plan(leaving, NOW) == []
    assert plan(service(Desired.deleted, [one(1)], [replica(1, ReplicaState.stopped)]), NOW) == [Forget()]


@given(st.sampled_from(list(Desired)), st.integers(0, 5), st.lists(states, max_size=8))
def test_applying_the_plan_leaves_nothing_to_plan(desired: Desired, wanted: int, present: list[ReplicaState]) -> None:
    facts = service(desired, [one(wanted)], [replica(n, state) for n, state in enumerate(present)])
    after = _applied(facts)
    assert plan(after, NOW) in ([], [Forget()])
    coming = sum(r.state not in ENDED | LEAVING for r in after.replicas)
    leaving = sum(state in LEAVING for state in present)
    kept = sum(state not in ENDED | LEAVING for state in present)
    assert coming == (max(wanted - leaving, min(wanted, kept)) if desired is Desired.running else 0)


@given(st.sampled_from(list(Desired)), st.integers(0, 5), st.lists(states, max_size=8))
def test_ready_is_shown_only_when_enough_replicas_are(
    desired: Desired, wanted: int, present: list[ReplicaState]
) -> None:
    facts = service(desired, [one(wanted)], [replica(n, state) for n, state in enumerate(present)])
    shown = summarise(facts).state
    enough = present.count(ReplicaState.ready) >= wanted
    assert (shown is ServiceState.ready) == (desired is Desired.running and enough)


def test_the_reason_of_a_failure_is_shown() -> None:
    failing = one(1, failures=1, last_failure="the engine exited with code 3: boom")
    shown = summarise(service(Desired.running, [failing], []))
    assert (shown.state, shown.reason) == (ServiceState.failed, "the engine exited with code 3: boom")


def _applied(facts: ServiceFacts) -> ServiceFacts:
    """The service after its plan was carried out, the retired on their way out."""
    retired = {change.replica_id for change in plan(facts, NOW) if isinstance(change, Retire)}
    replicas = [
        ReplicaFacts(r.id, r.deployment_id, r.generation, ReplicaState.stopping if r.id in retired else r.state)
        for r in facts.replicas
    ]
    added = sum(change.count for change in plan(facts, NOW) if isinstance(change, Add))
    new = [replica(100 + number, ReplicaState.pending) for number in range(added)]
    return ServiceFacts(facts.id, facts.desired, facts.deployments, [*replicas, *new])
