"""I4: what is billed, and the tail that is declared, against the engine's own books, though processes are killed.

What cannot be known, and is bounded instead:

* tokens that an engine generated for a stream after the last chunk that the gateway read before the client or the
  gateway's worker went away: the record's `tail_tokens`;
* everything that an engine generated for an answer that is not streamed and that its client did not wait for: such a
  record is `estimated`, its tail is the request's own limit;
* the prompt's count of a request whose engine had not told it before the cut: `estimated` from its size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import httpx

from tests.support.appliance import Appliance, Tenant, done, running
from tests.support.load import Asked, Load, Manner, plan
from tests.support.waiting import eventually, eventually_async

REQUESTS: Final = 1000
CONCURRENCY: Final = 32
SEED: Final = 20_261
PAUSE_MS: Final = 5

Record = dict[str, Any]


async def test_the_books_agree_though_processes_are_killed() -> None:
    # No further probes: one that is cut by the control plane's death would be in the engine's books alone.
    with running(APPLIANCE_ENGINES__READY_PERIOD_S="3600") as appliance:
        tenant = Tenant.create(appliance)
        tenant.publish("metered", replicas=2, args=[f"--pause-ms={PAUSE_MS}"])
        service = tenant.until("metered", "ready")
        eventually(lambda: tenant.service("metered")["ready_replicas"] == 2)
        requests = plan(REQUESTS, SEED)
        load = Load(service["url"], tenant.known_key(service["url"]), "metered", requests, concurrency=CONCURRENCY)
        await asyncio.gather(load.run(), _kill_on_the_way(appliance, load))
        _few_are_broken(requests)
        ledger = _ledger(appliance, service["id"])
        records = eventually(lambda: _settled(appliance, tenant, requests, ledger), 30, message="all is recorded")
        _no_record_twice(records)
        _each_request_is_right(requests, records)
        _sums_agree(appliance, tenant, service["id"], requests, records)
        assert not appliance.violations()


async def _kill_on_the_way(appliance: Appliance, load: Load) -> None:
    """A worker, the control plane, the other worker; each after a part of the requests."""
    await eventually_async(lambda: _reached(load, REQUESTS // 5), 60)
    appliance.kill_worker(0)
    await eventually_async(lambda: _reached(load, 2 * REQUESTS // 5), 60)
    appliance.kill()
    await eventually_async(lambda: _reached(load, 3 * REQUESTS // 5), 60)
    appliance.kill_worker(1)
    await asyncio.to_thread(appliance.start)


async def _reached(load: Load, count: int) -> bool:
    return load.done >= count


def _few_are_broken(requests: Sequence[Asked]) -> None:
    """What a killed worker had in hand is lost for its client, and nothing else."""
    assert sum(asked.broken for asked in requests) <= 2 * CONCURRENCY
    refused = [asked for asked in requests if asked.status not in (0, httpx.codes.OK)]
    assert not refused, refused[:5]


def _ledger(appliance: Appliance, service_id: str) -> dict[str, int]:
    """The engines' own counters, without our probes."""
    totals = {"requests": 0, "prompt_tokens": 0, "generation_tokens": 0}
    replicas = [row for row in appliance.rows("replicas") if row["service_id"] == service_id]
    for replica in replicas:
        transport = httpx.HTTPTransport(uds=str(appliance.home / "run" / "e" / replica["id"] / "engine.sock"))
        with httpx.Client(transport=transport, base_url="http://engine") as client:
            lines = client.get("/metrics").text.splitlines()
        counters = {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}
        for name in totals:
            totals[name] += counters[f"light:{name}_total"]
        totals["requests"] -= 1
        totals["prompt_tokens"] -= replica["probe_prompt_tokens"]
        totals["generation_tokens"] -= replica["probe_completion_tokens"]
    return totals


def _settled(appliance: Appliance, tenant: Tenant, requests: Sequence[Asked], ledger: dict[str, int]) -> list[Record]:
    """All records once every request that an engine saw or a client had an answer to is among them; none before."""
    records = _records(tenant)
    recorded = {record["request_id"] for record in records}
    answered = {asked.id for asked in requests if asked.status}
    spooled = [path for path in (appliance.home / "gateway" / "spool").glob("worker-*/*") if path.name != "slots"]
    complete = answered <= recorded and len(records) >= ledger["requests"] and not spooled
    return records if complete else []


def _records(tenant: Tenant) -> list[Record]:
    records: list[Record] = []
    cursor: str | None = None
    while True:
        page = done(tenant.client.get("usage/records", params={"limit": 500} | ({"cursor": cursor} if cursor else {})))
        records += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return records


def _no_record_twice(records: Sequence[Record]) -> None:
    assert len({record["record_id"] for record in records}) == len(records)
    # No engine failed, so nothing was tried at another one.
    assert len({record["request_id"] for record in records}) == len(records)


def _each_request_is_right(requests: Sequence[Asked], records: Sequence[Record]) -> None:
    asked_by_id = {asked.id: asked for asked in requests}
    for record in records:
        asked = asked_by_id[record["request_id"]]
        told = (record, asked)
        billed, tail = record["completion_tokens"], record["tail_tokens"]
        assert asked.received <= billed + tail, told
        assert billed <= asked.max_tokens, told
        if not record["estimated"]:
            assert record["prompt_tokens"] == asked.prompt_tokens, told
            assert asked.received <= billed, told
        if record["outcome"] == "completed":
            assert (billed, tail, record["estimated"]) == (asked.max_tokens, 0, False), told
        elif asked.manner in (Manner.whole, Manner.streamed):
            assert record["outcome"] == "worker_lost", told


def _sums_agree(
    appliance: Appliance, tenant: Tenant, service_id: str, requests: Sequence[Asked], records: Sequence[Record]
) -> None:
    """Engines that were cut go on for a moment, at most until the request's limit; then their books stand still."""
    billed = sum(record["completion_tokens"] for record in records)
    tail = sum(record["tail_tokens"] for record in records)
    prompts = {asked.id: asked.prompt_tokens for asked in requests}
    known = sum(prompts[record["request_id"]] for record in records if not record["estimated"])
    at_most = sum(prompts[record["request_id"]] for record in records)
    ledger = _ledger_at_rest(appliance, service_id)
    print(f"{len(records)} records: {billed} billed + {tail} tail; the engines' ledger: {ledger}")  # noqa: T201
    assert billed <= ledger["generation_tokens"] <= billed + tail
    assert known <= ledger["prompt_tokens"] <= at_most
    report = done(tenant.client.get("usage", params={"service": service_id}))["items"][0]
    assert (report["requests"], report["completion_tokens"], report["tail_tokens"]) == (len(records), billed, tail)


def _ledger_at_rest(appliance: Appliance, service_id: str) -> dict[str, int]:
    last: dict[str, int] = {}

    def unchanged() -> dict[str, int] | None:
        nonlocal last
        before, last = last, _ledger(appliance, service_id)
        return last if before == last else None

    eventually(unchanged, 10, message="the engines are idle")
    return last
