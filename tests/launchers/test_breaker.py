from appliance.kernel.clock import ManualClock
from appliance.launchers.docker.breaker import CircuitBreaker
from appliance.launchers.errors import LauncherUnavailable


def _refused(breaker: CircuitBreaker) -> bool:
    try:
        breaker.enter()
    except LauncherUnavailable:
        return True
    return False


def test_a_failure_opens_and_one_probe_closes() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker(clock, cool_off_s=3)
    assert not _refused(breaker)
    breaker.failed("down")
    assert _refused(breaker)

    clock.advance(3)
    assert not _refused(breaker)
    assert _refused(breaker), "a second caller while the probe is under way"

    breaker.succeeded()
    assert not _refused(breaker)


def test_a_failed_probe_opens_again() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker(clock, cool_off_s=3)
    breaker.failed("down")
    clock.advance(3)
    breaker.enter()
    breaker.failed("still down")
    clock.advance(2.9)
    assert _refused(breaker)


def test_a_probe_that_vanishes_does_not_keep_it_shut() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker(clock, cool_off_s=3)
    breaker.failed("down")
    clock.advance(3)
    breaker.enter()
    clock.advance(3)
    assert not _refused(breaker)
