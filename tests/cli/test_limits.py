"""Limits, budgets, restrictions and shared listeners from the command line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.conftest import CommandLine, rows
from tests.support.models import write_tiny_model
from tests.support.ports import free_ports


@pytest.fixture(scope="module")
def tenant(platform: CommandLine) -> CommandLine:
    platform.ok("tenant", "create", "limited")
    tenant = CommandLine(platform.appliance, "limited")
    folder = write_tiny_model(platform.appliance.models / "limited", seed=4)
    tenant.ok("model", "import", "tiny", "--from", str(folder))
    return tenant


@pytest.fixture(scope="module")
def gateway(platform: CommandLine) -> Iterator[str]:
    """Of two ports."""
    port = str(free_ports(2).start)
    platform.ok("gateway", "create", "shared", "--first-port", port, "--ports", "2", "--host", "127.0.0.1")
    yield "shared"
    platform.ok("gateway", "delete", "shared")


def test_limits_and_priority_of_a_tenant(platform: CommandLine):
    made = platform.json("tenant", "create", "bounded", "--priority", "low", "--requests-per-minute", "5")
    assert (made["priority"], made["limits"]) == ("low", {"requests_per_minute": 5})
    changed = platform.json("tenant", "update", "bounded", "--priority", "high", "--tokens-per-minute", "900")
    assert changed["limits"] == {"requests_per_minute": 5, "tokens_per_minute": 900}
    assert changed["priority"] == "high"
    lifted = platform.json("tenant", "update", "bounded", "--requests-per-minute", "none")
    assert lifted["limits"] == {"tokens_per_minute": 900}
    assert "high" in platform.ok("tenant", "show", "bounded")
    assert platform.ok("tenant", "delete", "bounded", "--yes")


def test_what_a_key_is_restricted_to(tenant: CommandLine):
    made = tenant.json(
        *("key", "create", "robot", "--route", "POST /v1/chat/completions", "--network", "10.0.0.0/8"),
        *("--concurrent-requests", "4"),
    )["key"]
    assert (made["routes"], made["networks"]) == (["POST /v1/chat/completions"], ["10.0.0.0/8"])
    changed = tenant.json("key", "update", "robot", "--any-route", "--network", "192.0.2.7", "--tokens-per-minute", "9")
    assert (changed["routes"], changed["networks"]) == ([], ["192.0.2.7/32"])
    assert changed["limits"] == {"concurrent_requests": 4, "tokens_per_minute": 9}
    assert changed["version"] == 2
    assert "192.0.2.7/32" in tenant.ok("key", "update", "robot", "--concurrent-requests", "none")
    assert "write 10.0.0.0/8" in tenant.fails("key", "update", "robot", "--network", "10.1.1.1/8")


def test_a_tenant_reads_its_limits(tenant: CommandLine):
    tenant.ok("key", "create", "bounded", "--requests-per-minute", "30")
    items = tenant.json("tenant", "limits")["items"]
    assert (items[0]["kind"], items[0]["name"]) == ("tenant", "limited")
    (key,) = [item for item in items if item["name"] == "bounded"]
    assert (key["kind"], key["limits"], key["requests"]) == ("key", {"requests_per_minute": 30}, 0)
    assert [row[:4] for row in rows(tenant.ok("tenant", "limits")) if row[1] == "bounded"] == [
        ["key", "bounded", "0", "30"]
    ]


def test_budgets(platform: CommandLine, tenant: CommandLine):
    tenant.ok("key", "create", "spender")
    made = tenant.json("budget", "create", "--for-key", "spender", "--tokens", "1000", "--period", "month")
    assert (made["kind"], made["tokens"], made["spent"], made["period"]) == ("key", 1000, 0, "month")
    assert made["resets_at"]
    whole = platform.json("budget", "create", "--for-tenant", "limited", "--tokens", "5000")
    assert (whole["kind"], whole["resets_at"]) == ("tenant", None)
    assert {row[0] for row in rows(tenant.ok("budget", "list"))} == {"key", "tenant"}
    assert [item["id"] for item in tenant.json("budget", "list", "--kind", "key", "--subject", "spender")] == [
        made["id"]
    ]
    assert tenant.json("budget", "update", made["id"], "--tokens", "2000")["remaining"] == 2000
    assert "2000" in tenant.ok("budget", "show", made["id"])
    assert "already" in tenant.fails("budget", "create", "--for-key", "spender", "--tokens", "1", "--period", "month")
    assert tenant.json("budget", "delete", made["id"])["state"] == "deleted"
    assert platform.ok("budget", "delete", whole["id"], "--yes") == f"budget {whole['id']}: deleted\n"


def test_how_a_service_treats_requests(platform: CommandLine, acme: CommandLine, tenant: CommandLine, gateway: str):
    assert "no shared listener" in tenant.fails(
        "service", "create", "talk", "--model", "tiny", "--gateway", gateway, "--listener", "shared"
    )
    shared = platform.json("gateway", "share", gateway)
    port = shared["shared_port"]
    assert shared["free_ports"] == [port + 1]
    assert str(port) in platform.ok("gateway", "list")
    assert platform.json("gateway", "share", gateway, "--port", str(port + 1))["shared_port"] == port + 1
    made = tenant.json(
        *("service", "create", "talk", "--model", "tiny", "--runtime", "light", "--gateway", gateway),
        *("--listener", "shared", "--requests-per-minute", "60", "--affinity", "key", "--max-queued", "7"),
    )
    assert (made["port"], made["listener"]) == (None, "shared")
    assert made["urls"] == [made["url"]] == [f"http://127.0.0.1:{port + 1}/talk/v1"]
    assert (made["limits"], made["affinity"]) == ({"requests_per_minute": 60}, "key")
    assert made["queue"] == {"max_queued": 7, "queue_s": 30.0}
    changed = tenant.json(
        *("service", "update", "talk", "--queue-s", "2", "--capture-share", "0.25", "--idle-s", "15"),
        *("--concurrent-requests", "3", "--requests-per-minute", "none"),
    )
    assert changed["queue"] == {"max_queued": 7, "queue_s": 2.0}
    assert changed["capture"] == {"share": 0.25, "max_bytes": 262144}
    assert (changed["timeouts"]["idle_s"], changed["timeouts"]["connect_s"]) == (15, 5)
    assert changed["limits"] == {"concurrent_requests": 3}
    assert tenant.json("service", "update", "talk", "--capture-share", "0")["capture"] is None
    assert "in-use" in platform.fails("gateway", "unshare", gateway)
    assert platform.json("service", "share", "talk", "--with", "acme", "--tenant", "limited")["shared_with"] == ["acme"]
    assert "acme" in tenant.ok("service", "show", "talk")
    assert platform.json("service", "share", "talk", "--with-nobody", "--tenant", "limited")["shared_with"] == []
    tenant.ok("service", "delete", "talk", "--wait")
    assert platform.ok("gateway", "unshare", gateway, "--yes") == f"gateway {gateway}: unshared\n"
    assert platform.json("gateway", "show", gateway)["shared_port"] is None


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("key", "update", "x"), "say what to change"),
        (("key", "update", "x", "--route", "GET /", "--any-route"), "opposites"),
        (("key", "create", "x", "--requests-per-minute", "0"), "positive whole number"),
        (("tenant", "update", "limited", "--priority", "urgent"), "is not one of"),
        (("budget", "create", "--tokens", "1"), "give one of"),
        (("budget", "create", "--tokens", "1", "--for-key", "a", "--for-service", "b"), "give one of"),
        (("service", "share", "x"), "give either"),
        (("service", "share", "x", "--with", "a", "--with-nobody"), "give either"),
        (("service", "create", "x", "--model", "tiny", "--capture-bytes", "4096"), "--capture-share"),
    ],
)
def test_what_is_not_understood_is_a_usage_error(tenant: CommandLine, arguments: tuple[str, ...], hint: str):
    assert hint in tenant.fails(*arguments, status=2)
