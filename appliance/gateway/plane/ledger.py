"""The books of one request: its identity, its counts, its slot and its place in the replica's count.

Whatever happens to the request, `settle` is called once: the replica's count goes down, and what its record is made
of is kept.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from appliance.gateway.plane.backends import Replica
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.meter import billed
from appliance.gateway.plane.metrics import DeploymentMetrics
from appliance.gateway.plane.request import Request
from appliance.gateway.plane.schemas.records import Outcome
from appliance.gateway.plane.settled import Settled
from appliance.gateway.plane.slots import Ending, Progress, RequestIdentity
from appliance.gateway.plane.usage import Counter

_MODEL_IN_RECORD: Final = 120
_ROUTE_IN_RECORD: Final = 80
"""Characters, so that an identity fits its slot."""


class Ledger:
    """`attempt`: how many replicas were begun with."""

    __slots__ = (
        "_captured",
        "_context",
        "_first",
        "_first_tokens",
        "_first_tokens_at",
        "_identity",
        "_request",
        "_sent_at",
        "_settled",
        "_slot",
        "_stream",
        "_tokens",
        "_tokens_at",
        "attempt",
        "bytes_out",
        "counter",
        "last",
        "queued_ms",
        "replica",
        "sink",
    )

    def __init__(self, context: Context, request: Request) -> None:
        self._context = context
        self._request = request
        self._identity: RequestIdentity | None = None
        self._slot: int | None = None
        self._sent_at = self._first = 0.0
        self.last = 0.0
        """When something of the answer came last, on the loop's clock."""
        self._tokens = self._first_tokens = 0
        self._tokens_at = self._first_tokens_at = 0.0
        self._stream: DeploymentMetrics | None = None
        self._settled = False
        self.attempt = 0
        self.replica: Replica | None = None
        self.counter = Counter()
        self.bytes_out = 0
        """Of the answer's body, without framing."""
        policy = request.service.shard.capture
        captured = None if policy is None else context.captures.begin(policy, request)
        self._captured = None if captured is None or policy is None else (captured, policy)
        self.sink = None if captured is None else partial(context.captures.add, captured)
        """Where what the client gets is kept, too."""
        self.queued_ms = 0.0
        """What the request waited for a replica with room."""

    def begin(self, replica: Replica) -> bool:
        """Count the request at `replica`; False if there is no slot for it."""
        self.attempt += 1
        identity = self._identify(replica)
        slot = self._context.slots.claim(identity, self._request.started)
        if slot is None:
            return False
        self._identity, self._slot, self.replica = identity, slot, replica
        self._context.backends.begin(replica)
        prepared = self._request.prepared
        if prepared is not None and prepared.stream and prepared.choices == 1:
            shard = self._request.service.shard
            self._stream = self._context.metrics.of(shard.tenant_id, shard.id, replica.deployment_id)
        return True

    def withdraw(self) -> None:
        """The replica has not seen the request: as if it had not been chosen."""
        if self._slot is not None:
            self._context.slots.free(self._slot)
        if self.replica is not None:
            self._context.backends.end(self.replica)
        self._identity, self._slot, self.replica = None, None, None
        self._sent_at = self._first = self.last = 0.0

    def sent(self) -> None:
        self._sent_at = self._context.now()

    def received(self) -> float:
        """Something of the answer came: when, on the loop's clock."""
        now = self.last = self._context.now()
        if not self._first:
            self._first = now
        return now

    def streamed(self, size: int) -> None:
        """What came is `size` bytes for the client, whose tokens are counted."""
        self.last = self._context.now()
        self.bytes_out += size
        self.keep()

    def keep(self) -> None:
        """A piece of the answer was read: write the counts where a kill of this process leaves them."""
        counter = self.counter
        if self._slot is not None:
            self._context.slots.update(
                self._slot,
                counter.prompt,
                counter.completion,
                counter.largest_chunk,
                self.bytes_out,
                self._request.started,
                self._first,
                self.last,
            )
        if counter.completion > self._tokens:
            self._time_tokens(counter.completion)

    def _time_tokens(self, tokens: int) -> None:
        """Tokens that came together share the time since those before them."""
        if not self._tokens:
            self._first_tokens, self._first_tokens_at = tokens, self.last
        elif self._stream is not None:
            came = tokens - self._tokens
            self._stream.minute.inter_token.observe((self.last - self._tokens_at) / came, came)
        self._tokens, self._tokens_at = tokens, self.last

    def settle(self, status: int, outcome: Outcome) -> None:
        if self._settled:
            raise RuntimeError("a request is settled once")
        self._settled = True
        if self.replica is not None:
            self._context.backends.end(self.replica)
        ending = Ending(
            status,
            outcome,
            self._context.now(),
            self._sent_at > 0,
            self.queued_ms,
            self._tokens - self._first_tokens,
            1000 * (self._tokens_at - self._first_tokens_at),
        )
        identity, progress, request = self._identity or self._identify(None), self._progress(), self._request
        slot = self._slot
        if slot is not None:
            self._context.slots.end(slot, progress, ending, charged=identity.charge == 0)
        if request.grant is not None:
            request.grant.settle(*billed(identity, progress, ending))
        if slot is not None and identity.charge:
            self._context.slots.charged(slot)
        self._context.settle(Settled(identity, progress, ending, slot, request, self._captured))

    def _progress(self) -> Progress:
        counter = self.counter
        return Progress(
            counter.prompt,
            counter.completion,
            counter.largest_chunk,
            self.bytes_out,
            self._request.started,
            self._first,
            self.last,
        )

    def _identify(self, replica: Replica | None) -> RequestIdentity:
        request, prepared = self._request, self._request.prepared
        grant = request.grant
        return RequestIdentity(  # by position, in the order of its members: twice as fast
            f"{request.unique}.{self.attempt}",
            request.request_id.decode("ascii"),
            request.at,
            request.key.tenant_id,
            request.key.key_id,
            request.service.shard.id,
            replica.deployment_id if replica is not None else "",
            replica.id if replica is not None else "",
            request.route[:_ROUTE_IN_RECORD],
            prepared.model[:_MODEL_IN_RECORD] if prepared is not None else "",
            prepared.stream if prepared is not None else False,
            request.bytes_in,
            prepared.prompt_estimate if prepared is not None else 0,
            prepared.token_limit if prepared is not None else 0,
            prepared.choices if prepared is not None else 1,
            prepared.context if prepared is not None else 0,
            grant.charge if grant is not None else 0,
            grant.hashes if grant is not None else b"",
        )
