"""A circuit breaker: after a failure nothing is asked for a while, then one call finds out."""

from __future__ import annotations

from appliance.kernel.clock import Clock
from appliance.launchers.errors import LauncherUnavailable


class CircuitBreaker:
    """Closed: calls pass. Open for `cool_off_s` after a failure: calls are refused at once. Half-open: one call
    passes as the probe, and its outcome closes or opens the circuit.
    """

    def __init__(self, clock: Clock, *, cool_off_s: float) -> None:
        self._clock = clock
        self._cool_off_s = cool_off_s
        self._retry_at: float | None = None
        self._reason = ""

    def enter(self) -> None:
        """Before a call. Raises `LauncherUnavailable` while the circuit is open."""
        if self._retry_at is None:
            return
        now = self._clock.monotonic()
        if now < self._retry_at:
            raise LauncherUnavailable(self._reason)
        # This caller is the probe. Should it vanish without a word, the next one is let in after another pause.
        self._retry_at = now + self._cool_off_s

    def succeeded(self) -> None:
        self._retry_at = None

    def failed(self, reason: str) -> None:
        self._retry_at = self._clock.monotonic() + self._cool_off_s
        self._reason = reason
