"""The order of waiting requests, as properties: everybody is served, nobody waits needlessly, shares are as weighed."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.gateway.plane.pace import LEAST_SAMPLE, Pace
from appliance.gateway.plane.queueing import QUANTUM, Entry, FairQueue

TENANTS = st.sampled_from("abcd")
COSTS = st.integers(1, 20_000)
WEIGHTS = st.sampled_from([0.03, 0.5, 1.0, 2.0, 4.0])


def entry(tenant: str = "a", cost: int = 100, *, key: str = "k", pool: str | None = None) -> Entry:
    return Entry(tenant=tenant, key=key, pool=pool, cost=cost)


def serve(queue: FairQueue[Entry], closed: tuple[str | None, ...] = ()) -> Entry | None:
    served = queue.peek(closed)
    if served is not None:
        queue.take(served)
    return served


def drain(queue: FairQueue[Entry]) -> list[Entry]:
    served = []
    while (each := serve(queue)) is not None:
        served.append(each)
    return served


class Arrivals:
    """Weights stay the same for a tenant."""

    def __init__(self, weights: dict[str, float], entries: list[Entry]) -> None:
        self.weights = weights
        self.queue: FairQueue[Entry] = FairQueue()
        for each in entries:
            self.queue.add(each, weights[each.tenant])


WEIGHED = st.fixed_dictionaries(dict.fromkeys("abcd", WEIGHTS))
ENTRIES = st.lists(
    st.builds(entry, TENANTS, COSTS, key=st.sampled_from("xyz"), pool=st.sampled_from([None, "p", "q"])), max_size=60
)


@given(WEIGHED, ENTRIES)
def test_every_request_is_served_once(weights: dict[str, float], entries: list[Entry]) -> None:
    arrivals = Arrivals(weights, entries)
    served = drain(arrivals.queue)
    assert Counter(map(id, served)) == Counter(map(id, entries))
    assert arrivals.queue.count == 0
    assert list(arrivals.queue) == []


@given(WEIGHED, ENTRIES)
def test_requests_of_one_key_and_pool_are_served_as_they_came(weights: dict[str, float], entries: list[Entry]) -> None:
    served = drain(Arrivals(weights, entries).queue)
    for flow in {(each.tenant, each.key, each.pool) for each in entries}:
        came = [each for each in entries if (each.tenant, each.key, each.pool) == flow]
        assert [each for each in served if (each.tenant, each.key, each.pool) == flow] == came


@given(WEIGHED, ENTRIES, st.sets(st.sampled_from([None, "p", "q"])))
def test_somebody_is_served_whenever_a_pool_with_waiters_is_open(
    weights: dict[str, float], entries: list[Entry], closed: set[str | None]
) -> None:
    queue = Arrivals(weights, entries).queue
    for _ in range(sum(each.pool not in closed for each in entries)):
        served = serve(queue, tuple(closed))
        assert served is not None
        assert served.pool not in closed
    assert queue.peek(tuple(closed)) is None
    assert queue.count == sum(each.pool in closed for each in entries)


@settings(max_examples=200)
@given(WEIGHED, st.lists(st.tuples(TENANTS, COSTS), min_size=8, max_size=200), st.data())
def test_two_tenants_that_wait_get_the_same_work_for_their_weight(
    weights: dict[str, float], asked: list[tuple[str, int]], data: st.DataObject
) -> None:
    """Within one quantum and the largest request of each: Shreedhar and Varghese's bound."""
    arrivals = Arrivals(weights, [entry(tenant, cost) for tenant, cost in asked])
    queue = arrivals.queue
    largest = max(cost for _, cost in asked)
    before = dict.fromkeys("abcd", 0)
    pair = data.draw(st.permutations(sorted("abcd")))[:2]
    while all(queue.waiting(tenant) for tenant in pair):
        served = serve(queue)
        assert served is not None
        before[served.tenant] += served.cost
        if not all(queue.waiting(tenant) for tenant in pair):
            break  # one of the two waits no more
        first, second = pair
        apart = abs(before[first] / weights[first] - before[second] / weights[second])
        assert apart <= QUANTUM + largest / weights[first] + largest / weights[second] + 1


@given(WEIGHED, ENTRIES, st.sets(st.integers(0, 59)))
def test_those_who_left_are_not_served(weights: dict[str, float], entries: list[Entry], leaving: set[int]) -> None:
    queue = Arrivals(weights, entries).queue
    left = {id(each) for number, each in enumerate(entries) if number in leaving}
    for each in entries:
        if id(each) in left:
            queue.peek()  # whoever had the turn may be the one who leaves
            queue.remove(each)
    assert {id(each) for each in drain(queue)} == {id(each) for each in entries} - left


def test_one_tenants_thousand_requests_let_the_other_through() -> None:
    queue: FairQueue[Entry] = FairQueue()
    for _ in range(1000):
        queue.add(entry("flood", 500), 1.0)
    for _ in range(200):
        serve(queue)
    for _ in range(10):
        queue.add(entry("guest", 500), 1.0)
    order = [each.tenant for each in drain(queue)]
    assert order[:24].count("guest") == 10, "every other one, but for the turn that had begun"


def test_classes_of_priority_share_by_weight_and_starve_nobody() -> None:
    queue: FairQueue[Entry] = FairQueue()
    for tenant, weight in (("low", 1.0), ("normal", 2.0), ("high", 4.0)):
        for _ in range(400):
            queue.add(entry(tenant, 1000), weight)
    first = Counter(each.tenant for each in drain(queue)[:350])
    assert abs(first["low"] - 50) <= 5
    assert abs(first["normal"] - 100) <= 5
    assert abs(first["high"] - 200) <= 5


def test_keys_of_a_tenant_take_turns() -> None:
    queue: FairQueue[Entry] = FairQueue()
    for key in "xxxxxy":
        queue.add(entry(key=key), 1.0)
    assert [each.key for each in drain(queue)] == list("xyxxxx")


def test_what_is_ahead_of_a_newcomer_is_its_own_and_the_others_share() -> None:
    queue: FairQueue[Entry] = FairQueue()
    assert queue.ahead("a", 100, 1.0) == 100
    for _ in range(50):
        queue.add(entry("flood", 100), 1.0)
    assert queue.ahead("a", 100, 1.0) == 200
    assert queue.ahead("a", 100, 0.5) == 300
    assert queue.ahead("flood", 100, 1.0) == 5100
    queue.add(entry("a", 100), 1.0)
    assert queue.ahead("a", 100, 1.0) == 400


def test_full_queue_gives_up_the_youngest_of_whoever_waits_with_most() -> None:
    queue: FairQueue[Entry] = FairQueue()
    flood = [entry("flood") for _ in range(5)]
    for each in flood:
        queue.add(each, 1.0)
    assert queue.longest("flood", 1.0) is None
    assert queue.longest("guest", 1.0) is flood[-1]
    for _ in range(4):
        queue.add(entry("guest"), 1.0)
    assert queue.longest("guest", 1.0) is None, "it would wait with as many"


def test_pace_is_the_work_over_the_time_in_which_something_waited() -> None:
    pace = Pace()
    assert pace.seconds(100, 0.0) is None
    pace.begin(10.0)
    for second in range(1, LEAST_SAMPLE + 1):
        pace.served(50, 10.0 + second)
    pace.end(10.0 + LEAST_SAMPLE)
    known = pace.seconds(100, 1000.0)
    assert known is not None
    assert abs(known - 2.0) < 0.3
    pace.begin(2000.0)
    stalled = pace.seconds(100, 2030.0)
    assert stalled is not None
    assert stalled > 5 * known, "nothing was served for half a minute"
