"""Services from the command line: published, waited for, watched, deleted."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from appliance.cli.following import added
from tests.cli.conftest import CommandLine, rows
from tests.support.http import PLAIN
from tests.support.models import write_tiny_model
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def tenant(platform: CommandLine) -> CommandLine:
    platform.ok("tenant", "create", "serving")
    tenant = CommandLine(platform.appliance, "serving")
    folder = write_tiny_model(platform.appliance.models / "serving", seed=3)
    tenant.ok("model", "import", "tiny", "--from", str(folder))
    return tenant


@pytest.fixture(scope="module")
def chat(tenant: CommandLine) -> str:
    """A ready service."""
    done = tenant.appliance.cli(
        *("service", "create", "chat", "--model", "tiny", "--runtime", "light", "--wait", "--json"),
        *("--description", "for tests", "--defaults", '{"temperature": 0.5}', "--tenant", "serving"),
    )
    assert done.returncode == 0, done.stderr
    assert '"state": "ready"' in done.stdout
    assert "ready: " in done.stderr, "the phases are told on the way"
    return "chat"


def test_a_service_is_shown(tenant: CommandLine, chat: str):
    shown = tenant.json("service", "show", chat)
    assert (shown["description"], shown["defaults"]["temperature"]) == ("for tests", 0.5)
    assert shown["url"] in tenant.ok("service", "show", shown["id"])
    assert ["chat", "serving", "ready", "1", "1", shown["url"]] in rows(tenant.ok("service", "list"))
    assert [item["name"] for item in tenant.json("service", "list", "--state", "ready", "--model", "tiny")] == ["chat"]


def test_what_it_takes_and_why_is_told(tenant: CommandLine, chat: str):
    shown = tenant.ok("service", "show", chat)
    assert "memory of main: no device: weights 256 B" in shown
    assert "the smallest flavor: pool default has no devices" in shown
    plan = ("service", "create", "more", "--model", "tiny", "--runtime", "light", "--dry-run")
    assert tenant.json(*plan)["counts"]["replicas"] == 1
    told = tenant.ok(*plan)
    assert "the smallest flavor: pool default has no devices" in told
    assert "2 devices are usual for 0.0 billion parameters" in told
    assert "for 1 x 4096 tokens" in told
    assert "more" not in [item["name"] for item in tenant.json("service", "list")]
    assert "devices are usual" in tenant.ok("model", "estimate", "tiny", "--context", "64", "--runtime", "light")


def test_its_events_are_told_in_order(tenant: CommandLine, chat: str):
    phases = [event["phase"] for event in tenant.json("service", "events", chat)]
    assert phases.index("placed") < phases.index("ready")
    assert "placed" in tenant.ok("service", "events", chat, "--limit", "50")


def test_its_log_is_read(tenant: CommandLine, chat: str):
    lines = tenant.json("service", "logs", chat)
    assert tenant.ok("service", "logs", chat) == "".join(f"{line}\n" for line in lines)
    assert tenant.json("service", "logs", chat, "--tail", "1") == lines[-1:]
    assert "--follow has no end" in tenant.fails("service", "logs", chat, "--follow", "--json", status=2)


def test_its_log_is_followed_until_ctrl_c(tenant: CommandLine, chat: str):
    replica = tenant.json("service", "show", chat)["deployments"][0]["current"][0]["id"]
    with _following(tenant, chat, replica) as process:
        with (tenant.appliance.home / "logs" / "replicas" / f"{replica}.log").open("a") as file:
            file.write("a line for the follower\n")
        assert process.stdout is not None
        assert any("a line for the follower" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said.strip() == "interrupted"


@contextlib.contextmanager
def _following(tenant: CommandLine, service: str, replica: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [
            *(sys.executable, "-u", "-m", "appliance.cli.main"),
            *("service", "logs", service, "--follow", "--replica", replica, "--tenant", "serving"),
        ],
        env=tenant.appliance.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_is_changed_stopped_and_started(tenant: CommandLine, chat: str):
    assert tenant.json("service", "update", chat, "--replicas", "2", "--wait")["ready_replicas"] == 2
    assert "anew" in tenant.ok("service", "update", chat, "--description", "anew", "--replicas", "1")
    assert "say what to change" in tenant.fails("service", "update", chat, status=2)
    (deployment,) = tenant.json("service", "update", chat, "--spread", "--preemptible")["deployments"]
    assert deployment["placement"] == {"strategy": "spread", "node_labels": {}, "preemptible": True}
    (deployment,) = tenant.json("service", "update", chat, "--pack", "--node-label", "rack=A1")["deployments"]
    assert deployment["placement"] == {"strategy": "pack", "node_labels": {"rack": "A1"}, "preemptible": True}
    changed = tenant.json("service", "update", chat, "--not-preemptible", "--node-label", "")
    assert changed["deployments"][0]["placement"] == {"strategy": "pack", "node_labels": {}, "preemptible": False}
    assert "--node-label 'x' is not of the form" in tenant.fails(
        "service", "update", chat, "--node-label", "x", status=2
    )
    assert tenant.json("service", "stop", chat, "--wait")["state"] == "stopped"
    assert "stopped" in tenant.ok("service", "wait", chat)
    assert "action-not-allowed" in tenant.fails("service", "stop", chat)
    assert "desired" in tenant.ok("service", "start", chat)
    assert tenant.json("service", "wait", chat)["state"] == "ready"
    assert "ready" in tenant.ok("service", "wait", chat, "--for", "ready", "--timeout", "5")


def test_waiting_has_an_end(tenant: CommandLine, chat: str):
    done = tenant.appliance.cli("service", "wait", chat, "--for", "stopped", "--timeout", "0.3", "--tenant", "serving")
    assert (done.returncode, done.stdout) == (1, "")
    assert "service chat is ready after 0 s" in done.stderr


def test_a_failure_is_told_with_its_reason(tenant: CommandLine):
    arguments = ("service", "create", "broken", "--model", "tiny", "--runtime", "light", "--arg=--misbehave=exit")
    said = tenant.fails(*arguments, "--wait")
    assert "error: service broken failed: the engine exited with code 1" in said
    deleted = tenant.json("service", "delete", "broken", "--wait")
    assert (deleted["name"], deleted["state"]) == ("broken", "deleted")


def test_what_cannot_be_published_says_why(tenant: CommandLine):
    create = ("service", "create", "refused", "--runtime", "light")
    assert "there is no model 'none'" in tenant.fails(*create, "--model", "none")
    assert "there is no flavor 'huge'" in tenant.fails(*create, "--model", "tiny", "--flavor", "huge")
    assert "may not be set" in tenant.fails(*create, "--model", "tiny", "--env", "LD_PRELOAD=/x.so")
    assert "is not NAME=VALUE" in tenant.fails(*create, "--model", "tiny", "--env", "LD_PRELOAD", status=2)
    assert "not JSON" in tenant.fails(*create, "--model", "tiny", "--defaults", "{", status=2)
    assert tenant.json("service", "list", "--state", "failed") == []


def test_usage_is_totalled_and_listed(tenant: CommandLine, chat: str):
    secret = tenant.json("key", "create", "metered")["secret"]
    url = tenant.json("service", "show", chat)["url"]
    body = {"model": "chat", "messages": [{"role": "user", "content": "a b"}], "max_tokens": 3}
    headers = {"Authorization": f"Bearer {secret}"}
    eventually(lambda: PLAIN.post(f"{url}/chat/completions", json=body, headers=headers).is_success)
    eventually(lambda: tenant.json("usage", "records"), 15, message="the request is recorded")
    total = tenant.json("usage", "totals", "--for-key", "metered", "--service", chat)["items"][0]
    assert (total["requests"], total["prompt_tokens"], total["completion_tokens"]) == (1, 2, 3)
    assert rows(tenant.ok("usage", "totals", "--group-by", "model", "--since", "1h"))[0][:2] == ["chat", "1"]
    days = tenant.json("usage", "totals", "--group-by", "day", "--group-by", "key", "--time-zone", "Europe/Berlin")
    assert days["time_zone"] == "Europe/Berlin"
    assert days["items"][0]["period"].endswith(("+01:00", "+02:00"))
    assert (
        tenant.ok("usage", "totals", "--group-by", "service", "--csv").splitlines()[0].startswith("service,requests,")
    )
    records = tenant.ok("usage", "records", "--csv").splitlines()
    assert (len(records), records[0].split(",")[0]) == (2, "record_id")
    assert rows(tenant.ok("usage", "records", "--model", "chat"))[0][3] == "chat"
    latency = tenant.json("usage", "latency", "--service", chat, "--by", "deployment")
    assert latency["relative_error"] == 1 / 32
    assert tenant.ok("usage", "latency", "--csv").startswith("service,deployment,measure,count,mean_ms,p50_ms,p90_ms")
    assert tenant.json("usage", "records", "--until", "2020-01-01") == []
    assert "time zone" in tenant.fails("usage", "totals", "--time-zone", "Mars")
    assert "there is no service 'none'" in tenant.fails("usage", "totals", "--service", "none")


def test_a_key_is_made_for_a_service_by_its_name(tenant: CommandLine, chat: str):
    service = tenant.json("service", "show", chat)["id"]
    made = tenant.json("key", "create", "narrow", "--service", chat)
    assert made["key"]["services"] == [service]


def test_a_service_is_deleted_last(tenant: CommandLine, chat: str):
    assert "model-in-use" in tenant.fails("model", "delete", "tiny")
    assert "deleting" in tenant.ok("service", "delete", chat, "--yes")
    assert tenant.json("service", "wait", chat, "--for", "deleted") == {"name": chat, "state": "deleted"}
    assert f"there is no service '{chat}'" in tenant.fails("service", "show", chat)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ([], ["a"], ["a"]),
        (["a"], ["a", "b"], ["b"]),
        (["a", "b"], ["b", "c"], ["c"]),
        (["a", "a"], ["a", "a", "a"], ["a"]),
        (["a", "b"], ["a", "b"], []),
        (["a", "b"], ["x", "y"], ["x", "y"]),
        (["a", "b"], [], []),
    ],
)
def test_what_was_added_to_a_log(before: list[str], now: list[str], expected: list[str]):
    assert list(added(before, now)) == expected
