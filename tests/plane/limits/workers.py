"""Limiters as the workers of one node have them, in one process and with a clock that tests move."""

from pathlib import Path
from typing import Any

import pytest

from appliance.gateway.plane import wire
from appliance.gateway.plane.defaults import prepare
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.limits.grant import Grant
from appliance.gateway.plane.limits.limiter import Limiter
from appliance.gateway.plane.limits.shared import Counters
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.request import Request
from appliance.gateway.plane.snapshot import Snapshot
from tests.plane import parts

PROMPT = 9
"""What the gateway estimates the prompt of `parts.chat()` to be."""


class Node:
    """`key`, `service`, `tenant` are what the snapshot says of limits and budgets: change them and `apply`."""

    def __init__(self, directory: Path, workers: int = 1) -> None:
        self.directory = directory
        self.now_ms = 1_000_000_000 // 60_000 * 60_000
        self.at = 1_700_000_000.0
        self.key: dict[str, Any] = {}
        self.service: dict[str, Any] = {}
        self.tenant: dict[str, Any] = {}
        self.counters = [self._counters(index) for index in range(workers)]
        self.limiters = [self._limiter(counters) for counters in self.counters]

    def _counters(self, index: int) -> Counters:
        return Counters(self.directory, index, Log(process="test"))

    def _limiter(self, counters: Counters) -> Limiter:
        return Limiter(counters, lambda: self.now_ms)

    def apply(self) -> None:
        for index in range(len(self.limiters)):
            self.apply_to(index)

    def apply_to(self, index: int) -> None:
        buckets: list[dict[str, wire.KeyEntry]] = [{} for _ in range(wire.KEY_BUCKETS)]
        buckets[0]["aa"] = self.entry
        snapshot = Snapshot(
            1,
            wire.ListenersShard([]),
            {self.shard.id: self.shard},
            buckets,
            {"ten_acme": wire.TenantEntry("acme", **self.tenant)},
        )
        with self.counters[index].changing():
            self.limiters[index].apply(snapshot, self.at)

    @property
    def entry(self) -> wire.KeyEntry:
        return wire.KeyEntry("key_acme", "ten_acme", "test", **self.key)

    @property
    def shard(self) -> wire.ServiceShard:
        return parts.shard(**self.service)

    def restart(self, index: int) -> None:
        """The worker was killed and is replaced; its grants are forgotten."""
        self.counters[index] = self._counters(index)
        self.limiters[index] = self._limiter(self.counters[index])
        self.apply_to(index)

    def request(self, worker: int = 0, body: bytes | None = None) -> Request:
        request = parts.request(self.shard, parts.principal())
        request.at = self.at
        body = parts.chat() if body is None else body
        request.bytes_in = len(body)
        request.prepared = prepare(request, body, self.limiters[worker])
        return request

    def acquire(self, worker: int = 0, **members: Any) -> Grant:
        grant = self.limiters[worker].acquire(self.request(worker, parts.chat(**members)))
        assert grant is not None
        return grant


def fields(headers: bytes) -> dict[str, str]:
    lines = headers.decode().split("\r\n")
    assert lines.pop() == ""
    return dict(line.split(": ") for line in lines)


def refused(node: Node, worker: int = 0, **members: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        node.acquire(worker, **members)
    assert caught.value.status == 429
    return caught.value
