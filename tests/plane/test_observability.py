"""What the gateway tells of its traffic: access log, metrics, state, `appliance gateway top`."""

import asyncio
import json
import os
import re
import subprocess
import sys
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.gateway.plane import wire
from appliance.gateway.plane.access_log import AccessLog
from appliance.gateway.plane.debug import WorkerState
from appliance.gateway.plane.exposition import exposition
from appliance.gateway.plane.histograms import quantile
from appliance.gateway.plane.local import STATE, ask
from appliance.gateway.plane.meter import encode_record
from appliance.gateway.plane.schemas.listeners import NodeSettings
from appliance.gateway.plane.spool import FULL, Spool
from appliance.gateway.plane.upkeep import Upkeep, waiting_bytes
from tests.plane.fake_engine import FakeEngine
from tests.plane.harness import KEY, SERVICE, Gateway, chat, request, running, service
from tests.plane.records import LOG, metrics_of, record
from tests.plane.test_accounting import Books
from tests.plane.test_rollup import totals, usage, write
from tests.support.waiting import eventually

LABELS = 'worker="{}",tenant="{}",service="svc_1",deployment="dep_1"'
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class AtOnce(Executor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)


# Access log


def logged(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """Lines by request id."""
    text = (gateway.home / "logs" / "gateway" / "access.log").read_text()
    return {line["request_id"]: line for line in map(json.loads, text.splitlines())}


def test_access_log_tells_of_every_request_and_of_no_secret(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    own_gateway.services = {SERVICE: service(own_engine.path)}
    with running(own_gateway) as gateway:
        prompt = chat(messages=[{"role": "user", "content": "a private prompt"}])
        gateway.ask(request(prompt, fields={"X-Request-Id": "whole", "traceparent": TRACE}))
        gateway.ask(request(chat(), key="sk-unknown", fields={"X-Request-Id": "refused"}))
        gateway.ask(request(method="GET", path="/v1/models?secret=1", fields={"X-Request-Id": "own"}))
        gateway.ask(request({"n": "a private prompt"}, fields={"X-Request-Id": "body"}))
        names = {"whole", "refused", "own", "body"}
        eventually(lambda: names <= logged(gateway).keys(), ignoring=(OSError,))
        lines = logged(gateway)
        text = (gateway.home / "logs" / "gateway" / "access.log").read_text()
    whole = lines["whole"]
    assert (whole["status"], whole["outcome"], whole["key_id"], whole["peer"]) == (
        200,
        "completed",
        "key_1",
        "127.0.0.1",
    )
    assert whole["trace_id"] == TRACE.split("-")[1]
    assert (lines["refused"]["status"], lines["refused"]["code"]) == (401, "invalid_api_key")
    assert (lines["body"]["status"], lines["body"]["code"]) == (400, "invalid_value")
    assert (lines["own"]["path"], lines["own"]["status"]) == ("/v1/models", 200)
    assert own_engine.requests[0].field("traceparent") == TRACE
    for secret in ("private prompt", KEY, "sk-unknown", "secret=1"):
        assert secret not in text


@pytest.mark.parametrize("how", ["moved", "removed", "truncated"])
def test_every_way_of_rotating_the_access_log_works(tmp_path: Path, how: str) -> None:
    path = tmp_path / "logs" / "access.log"
    log = AccessLog(path, 0, LOG)
    log.enabled = True
    log.tell(record(1), "127.0.0.1", None)
    log.flush(AtOnce())
    match how:
        case "moved":
            path.rename(path.with_suffix(".1"))
        case "removed":
            path.unlink()
        case "truncated":
            os.truncate(path, 0)
    log.tell(record(2), "::1", TRACE.encode())
    log.flush(AtOnce())
    log.close()
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["record_id"], line["peer"], log.dropped) == ("r2", "::1", 0)


def test_access_log_that_cannot_be_written_is_dropped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    log = AccessLog(tmp_path / "file" / "access.log", 0, LOG)
    log.tell(record(1), "127.0.0.1", None)  # it is off
    log.enabled = True
    log.tell(record(2), "127.0.0.1", None)
    log.flush(AtOnce())
    assert log.dropped == 1


# Metrics and bills


def samples(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_keys_tenant_is_billed_for_a_shared_service(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    own_gateway.services = {
        SERVICE: service(own_engine.path, tenant_id="ten_2", tenant_name="owner", shared_with=["ten_1"])
    }
    with running(own_gateway) as gateway:
        assert gateway.ask(request(chat(), fields={"X-Request-Id": "shared"})).status == 200
        told = gateway.record("shared")
        text = asyncio.run(wire.scrape(gateway.home, 0))
    assert (told.tenant_id, told.key_id) == ("ten_1", "key_1")
    found = samples(text)
    assert found['appliance_gateway_tenant_prompt_tokens_total{worker="0",tenant="ten_1"}'] == 9
    assert (
        found['appliance_gateway_prompt_tokens_total{worker="0",tenant="ten_2",service="svc_1",deployment="dep_1"}']
        == 9
    )


def test_time_between_tokens_is_counted_and_shipped(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    own_engine.script = Books(tokens=30)
    with running(own_gateway) as gateway:
        with gateway.connect() as connection:
            connection.send(request(chat(stream=True), fields={"X-Request-Id": "streamed"}))
            connection.answer()
        text = asyncio.run(wire.scrape(gateway.home, 0))
        gateway.stop()
        segments = wire.sealed_segments(gateway.home / "gateway" / "spool")
        spooled = [each for path in segments for each, _ in wire.read_records(path)]
    (told,) = [each for each in spooled if isinstance(each, wire.UsageRecord)]
    latencies = [each for each in spooled if isinstance(each, wire.LatencyRecord)]
    assert 1 <= told.inter_token_count <= 29
    assert told.inter_token_ms / told.inter_token_count >= 1.0
    count = f"appliance_gateway_inter_token_seconds_count{{{LABELS.format(0, 'ten_1')}}}"
    assert samples(text)[count] == told.inter_token_count
    assert sum(each.requests for each in latencies) == 1
    assert sum(sum(each.inter_token.buckets.values()) for each in latencies) == told.inter_token_count
    (first,) = [each.first_token.buckets for each in latencies if each.first_token.buckets]
    assert quantile(first, 0.5) == pytest.approx((told.ttft_ms or 0) / 1000, rel=1 / 16)


def test_expositions_of_workers_are_joined_family_by_family() -> None:
    texts = []
    for worker in range(2):
        metrics = metrics_of(worker)
        metrics.observe(record(1, duration_ms=40.0, stream=True, ttft_ms=5.0), "ten_1")
        texts.append(exposition(metrics))
    joined = wire.merge_expositions(texts)
    assert joined.count("# TYPE appliance_gateway_requests_total counter") == 1
    for worker in range(2):
        labels = LABELS.format(worker, "ten_1")
        assert samples(joined)[f'appliance_gateway_request_duration_seconds_bucket{{{labels},le="0.065536"}}'] == 1
    families = re.findall(r"^# TYPE (\S+)", joined, re.MULTILINE)
    assert len(families) == len(set(families))


# State


def test_state_is_for_the_user_alone_and_top_shows_it(own_gateway: Gateway, own_engine: FakeEngine) -> None:
    own_gateway.services = {SERVICE: service(own_engine.path)}
    own_gateway.workers = 2
    with running(own_gateway) as gateway:
        for _ in range(10):
            assert gateway.ask(request(chat())).status == 200
        sockets = list((gateway.home / "run").glob("worker-*-metrics.sock"))
        assert [path.stat().st_mode & 0o777 for path in sockets] == [0o600, 0o600]
        states = [
            msgspec.json.decode(asyncio.run(ask(gateway.home, index, STATE)), type=WorkerState) for index in range(2)
        ]
        shown = top(gateway, "--once")
        as_json = json.loads(top(gateway, "--json"))
    assert sum(each.requests for state in states for each in state.deployments) == 10
    assert {replica.id for state in states for replica in state.replicas} == {"rpl_1"}
    assert all(state.resident_bytes > 1024 * 1024 for state in states)
    assert "WORKER" in shown
    assert re.search(r"^chat +dep_1 ", shown, re.MULTILINE)
    assert [state["worker"] for state in as_json] == [0, 1]


def top(gateway: Gateway, *options: str) -> str:
    command = [sys.executable, "-m", "appliance.cli.main", "gateway", "top", *options]
    environ = {**os.environ, "APPLIANCE_HOME": str(gateway.home)}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True).stdout


def test_top_without_a_gateway_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "appliance.cli.main", "gateway", "top"]
    environ = {**os.environ, "APPLIANCE_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no gateway runs here" in done.stderr


# What waits on the disk


def test_usage_is_refused_and_not_lost_at_the_bound(tmp_path: Path) -> None:
    freed: list[int] = []
    spool = Spool(tmp_path / "worker-0", freed=freed.extend, log=LOG)
    (tmp_path / FULL).touch()
    spool.append(encode_record(record(1)), 7)
    spool.flush()
    assert (spool.failing, spool.pending, freed) == (True, 1, [])
    (tmp_path / FULL).unlink()
    spool.flush()
    assert (spool.failing, spool.pending, freed) == (False, 0, [7])
    spool.close()


def test_upkeep_sums_up_at_half_the_bound_and_tells_when_that_is_not_enough(tmp_path: Path) -> None:
    spool = tmp_path / "gateway" / "spool"
    records = [usage(number) for number in range(2000)]
    for number in range(20):
        write(spool / f"worker-{number % 2}" / f"{number:020}.seg", records[100 * number : 100 * number + 100])
    before = sum(map(waiting_bytes, spool.glob("worker-*")))
    upkeep = Upkeep(tmp_path, LOG)
    upkeep.settings = NodeSettings(spool_bytes=before)
    upkeep.step()
    after = sum(map(waiting_bytes, spool.glob("worker-*")))
    assert after < before / 2
    assert not (spool / FULL).exists()
    found = [each for path in wire.sealed_segments(spool) for each, _ in wire.read_records(path)]
    assert totals(found) == totals(records)

    upkeep.settings = NodeSettings(spool_bytes=after)
    upkeep.step()
    assert (spool / FULL).exists()
    for path in wire.sealed_segments(spool):
        path.unlink()
    upkeep.step()
    assert not (spool / FULL).exists()


def test_access_log_is_rotated_by_the_supervisor(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "gateway" / "access.log"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 101)
    upkeep = Upkeep(tmp_path, LOG)
    (tmp_path / "gateway" / "spool").mkdir(parents=True)
    upkeep.settings = NodeSettings(access_log_bytes=100)
    upkeep.step()
    assert [each.name for each in path.parent.iterdir()] == ["access.log.1"]
