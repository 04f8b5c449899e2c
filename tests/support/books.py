"""Holding the gateway's records against the engines' own books (I4).

What cannot be known, and is bounded instead:

* tokens that an engine generated for a stream after the last chunk that the gateway read before the client or the
  gateway's worker went away: the record's `tail_tokens`;
* everything that an engine generated for an answer that is not streamed and that its client did not wait for: such a
  record is `estimated`, its tail is the request's own limit;
* the prompt's count of a request whose engine had not told it before the cut: `estimated` from its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from tests.support.appliance import Appliance, Tenant, done
from tests.support.load import Asked, Manner
from tests.support.waiting import eventually

Record = dict[str, Any]


def agree(appliance: Appliance, tenant: Tenant, service_id: str, requests: Sequence[Asked]) -> str:
    """Wait until everything is recorded and compare; the sums in a sentence. Raises `AssertionError`.

    The service's replicas run since its creation, and were asked for a token once each by the control plane.
    """
    ledger = _ledger_at_rest(appliance, service_id)
    records = eventually(lambda: _settled(appliance, tenant, requests, ledger), 30, message="all is recorded")
    _no_record_twice(records)
    _each_request_is_right(requests, records)
    return _sums_agree(tenant, service_id, requests, records, ledger)


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
    records = every_record(tenant)
    recorded = {record["request_id"] for record in records}
    answered = {asked.id for asked in requests if asked.status}
    spooled = [
        path
        for path in (appliance.home / "gateway" / "spool").glob("worker-*/*")
        if path.name not in ("slots", "reserve")
    ]
    complete = answered <= recorded and len(records) >= ledger["requests"] and not spooled
    return records if complete else []


def every_record(tenant: Tenant) -> list[Record]:
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
        if _was_never_sent(record):
            assert (billed, tail) == (0, 0), told
            assert asked.manner not in (Manner.whole, Manner.streamed), told
        elif not record["estimated"]:
            assert record["prompt_tokens"] == asked.prompt_tokens, told
            assert asked.received <= billed, told
        if record["outcome"] == "completed":
            assert (billed, tail, record["estimated"]) == (asked.max_tokens, 0, False), told
        elif asked.manner in (Manner.whole, Manner.streamed):
            assert record["outcome"] == "worker_lost", told


def _was_never_sent(record: Record) -> bool:
    """Whether its client left before the gateway had sent it to an engine."""
    return record["outcome"] == "client_cut" and not record["estimated"] and record["prompt_tokens"] == 0


def _sums_agree(
    tenant: Tenant, service_id: str, requests: Sequence[Asked], records: Sequence[Record], ledger: dict[str, int]
) -> str:
    billed = sum(record["completion_tokens"] for record in records)
    tail = sum(record["tail_tokens"] for record in records)
    prompts = {asked.id: asked.prompt_tokens for asked in requests}
    known = sum(record["prompt_tokens"] for record in records if not record["estimated"])
    at_most = sum(prompts[record["request_id"]] for record in records)
    assert billed <= ledger["generation_tokens"] <= billed + tail
    assert known <= ledger["prompt_tokens"] <= at_most
    report = done(tenant.client.get("usage", params={"service": service_id}))["items"][0]
    assert (report["requests"], report["completion_tokens"], report["tail_tokens"]) == (len(records), billed, tail)
    return f"{len(records)} records, {billed} tokens billed + {tail} tail; the engines counted {ledger}"


def _ledger_at_rest(appliance: Appliance, service_id: str) -> dict[str, int]:
    """Engines that were cut go on for a moment, at most until the request's limit; then their books stand still."""
    last: dict[str, int] = {}

    def unchanged() -> dict[str, int] | None:
        nonlocal last
        before, last = last, _ledger(appliance, service_id)
        return last if before == last else None

    eventually(unchanged, 10, message="the engines are idle")
    return last
