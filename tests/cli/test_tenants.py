"""Tenants, quotas, members, users and keys from the command line."""

from __future__ import annotations

import pytest

from appliance.cli.sizes import readable
from tests.cli.conftest import CommandLine, rows


def test_the_life_of_a_tenant(platform: CommandLine):
    made = platform.json("tenant", "create", "umbrella", "--display-name", "Umbrella & Co")
    assert (made["name"], made["display_name"], made["state"]) == ("umbrella", "Umbrella & Co", "active")
    assert platform.json("tenant", "show", made["id"]) == platform.json("tenant", "show", "umbrella")
    assert "Umbrella & Co" in platform.ok("tenant", "show", "umbrella")
    row = ["umbrella", "Umbrella & Co", "active", "normal", "trusted", made["id"]]
    assert row in rows(platform.ok("tenant", "list"))
    assert made["id"] in {item["id"] for item in platform.json("tenant", "list")}
    assert platform.json("tenant", "update", "umbrella", "--suspend")["state"] == "suspended"
    assert "active" in platform.ok("tenant", "update", "umbrella", "--activate", "--display-name", "Umbrella")
    assert platform.json("tenant", "delete", "umbrella") == {"kind": "tenant", "name": "umbrella", "state": "deleted"}
    assert "there is no tenant 'umbrella'" in platform.fails("tenant", "show", "umbrella")


def test_lists_are_cut_at_the_limit(platform: CommandLine, acme: CommandLine):
    platform.ok("tenant", "create", "second")
    assert [item["name"] for item in platform.json("tenant", "list", "--limit", "1")] == ["second"]
    assert platform.ok("tenant", "delete", "second", "--yes") == "tenant second: deleted\n"


def test_quotas(platform: CommandLine, acme: CommandLine):
    shown = {item["resource"]: item for item in platform.json("tenant", "quota", "show", "acme")}
    assert shown["services"]["limit"] == 50
    assert platform.json("tenant", "quota", "set", "acme", "services", "7")["limit"] == 7
    assert ["services", "0", "7"] in rows(platform.ok("tenant", "quota", "show", "acme"))
    assert [item["resource"] for item in platform.json("tenant", "quota", "show", "platform")] == ["services"]
    assert platform.json("tenant", "quota", "set", "acme", "storage_bytes", "5GiB")["limit"] == 5 * 1024**3
    stored = readable(shown["storage_bytes"]["used"])  # of the models that other tests import
    assert ["storage_bytes", stored, "5.0 GiB"] in rows(platform.ok("tenant", "quota", "show", "acme"))
    assert "limit" in platform.ok("tenant", "quota", "set", "platform", "services", "400")
    assert "[" in platform.fails("tenant", "quota", "set", "acme", "chairs", "7")


def test_members(acme: CommandLine):
    added = acme.json("member", "add", "ann", "--role", "viewer", "--display-name", "Ann")
    assert (added["member"]["role"], len(added["one_time_password"]) > 10) == ("viewer", True)
    assert "one_time_password" in acme.ok("member", "add", "bob", "--role", "developer")
    assert acme.json("member", "set-role", "ann", "developer")["role"] == "developer"
    assert "viewer" in acme.ok("member", "set-role", added["member"]["user_id"], "viewer")
    assert {(row[0], row[2]) for row in rows(acme.ok("member", "list"))} == {("ann", "viewer"), ("bob", "developer")}
    assert [item["name"] for item in acme.json("member", "list", "--limit", "5")]
    assert acme.json("member", "reset-password", "ann")["one_time_password"] != added["one_time_password"]
    assert "one_time_password" in acme.ok("member", "reset-password", "bob", "--yes")
    assert acme.ok("member", "remove", "ann") == "member ann: removed\n"
    assert acme.json("member", "remove", "bob")["state"] == "removed"
    assert "no member" in acme.fails("member", "remove", "ann")


def test_users(platform: CommandLine):
    made = platform.json("user", "create", "root2", "--platform-admin")
    assert (made["user"]["is_platform_admin"], made["user"]["must_change_password"]) == (True, True)
    assert made["one_time_password"]
    assert "one_time_password" in platform.ok("user", "create", "clerk", "--display-name", "The Clerk")
    assert platform.json("user", "update", "root2", "--no-platform-admin")["is_platform_admin"] is False
    assert "Second" in platform.ok("user", "update", "root2", "--display-name", "Second")
    assert {"root2", "clerk", "admin"} <= {row[0] for row in rows(platform.ok("user", "list"))}
    assert {"root2"} <= {item["name"] for item in platform.json("user", "list")}
    assert platform.json("user", "show", "root2")["id"] == made["user"]["id"]
    assert "Second" in platform.ok("user", "show", made["user"]["id"])
    assert platform.json("user", "reset-password", "root2")["one_time_password"]
    assert "one_time_password" in platform.ok("user", "reset-password", "root2")
    assert platform.json("user", "delete", "root2")["state"] == "deleted"
    assert platform.ok("user", "delete", "clerk") == "user clerk: deleted\n"


def test_keys_of_a_tenant(acme: CommandLine):
    made = acme.json("key", "create", "laptop", "--scope", "service:read", "--scope", "inference", "--expires", "30d")
    assert made["secret"].startswith(made["key"]["prefix"])
    assert made["key"]["scopes"] == ["inference", "service:read"]
    printed = acme.ok("key", "create", "phone", "--expires", "2040-01-01T00:00:00Z")
    assert "2040-01-01" in printed
    secret = next(line.split()[1] for line in printed.splitlines() if line.startswith("secret"))
    assert secret not in acme.ok("key", "show", "phone")
    assert acme.json("key", "show", made["key"]["id"])["name"] == "laptop"
    assert {"laptop", "phone"} == {row[0] for row in rows(acme.ok("key", "list"))}
    assert {"laptop", "phone"} == {item["name"] for item in acme.json("key", "list")}
    assert "revoke it first" in acme.fails("key", "delete", "laptop")
    assert acme.json("key", "revoke", "laptop")["state"] == "revoked"
    assert "revoked" in acme.ok("key", "revoke", "phone", "--yes")
    assert acme.ok("key", "delete", "laptop") == "key laptop: deleted\n"
    assert acme.json("key", "delete", "phone")["state"] == "deleted"


def test_a_key_works_where_it_is_given(platform: CommandLine, acme: CommandLine):
    secret = acme.json("key", "create", "reader", "--scope", "service:read")["secret"]
    url = platform.appliance.tenant_url
    assert platform.json("service", "list", "--url", url, "--key", secret) == []
    assert "lacks the permission 'model:read'" in platform.fails("model", "list", "--url", url, "--key", secret)
    assert "use it on the tenant port" in platform.fails("model", "list", APPLIANCE_KEY=secret)
    acme.ok("key", "revoke", "reader")
    assert "was revoked" in platform.fails("service", "list", APPLIANCE_URL=url, APPLIANCE_KEY=secret)
    acme.ok("key", "delete", "reader")


def test_keys_of_the_platform(platform: CommandLine):
    made = platform.json("key", "create", "robot", "--platform", "--scope", "platform:read")
    assert made["key"]["tenant_id"] is None
    assert platform.json("status", "--key", made["secret"])["launcher"] == "process"
    assert {"robot", "operator"} <= {row[0] for row in rows(platform.ok("key", "list", "--platform"))}
    assert platform.json("key", "show", "robot", "--platform")["id"] == made["key"]["id"]
    assert "there is no platform key 'nobody'" in platform.fails("key", "show", "nobody", "--platform")
    assert platform.json("key", "revoke", "robot", "--platform")["state"] == "revoked"
    assert platform.ok("key", "delete", "robot", "--platform") == "key robot: deleted\n"


def test_a_tenant_that_is_missing_is_asked_for_as_an_option(platform: CommandLine):
    said = platform.fails("key", "create", "for-nobody")
    assert "set --tenant to its name or id" in said
    assert "Appliance-Tenant" not in said


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("tenant", "create"), "Missing argument"),
        (("tenant", "update", "acme"), "say what to change"),
        (("tenant", "quota", "set", "acme", "keys", "many"), "is no size such as"),
        (("member", "add", "x", "--role", "king"), "is not one of"),
        (("key", "create", "x", "--expires", "soon"), "neither like"),
        (("user", "update", "admin"), "say what to change"),
        (("tenant", "list", "--limit", "0"), "--limit"),
    ],
)
def test_what_is_not_understood_is_a_usage_error(platform: CommandLine, arguments: tuple[str, ...], hint: str):
    assert hint in platform.fails(*arguments, status=2)


@pytest.mark.parametrize(
    ("arguments", "detail"),
    [
        (("tenant", "create", "Not a name!"), "[bad-input, request req_"),
        (("tenant", "show", "a?b#c"), "there is no tenant 'a?b#c'"),
        (("service", "list", "--tenant", "nobody"), "there is no tenant 'nobody'"),
        (("service", "list", "--ca", "/nonexistent"), "no CA certificate that can be read"),
        (("service", "list", "--url", "https://127.0.0.1:9"), "does not answer"),
        (("service", "list", "--key", "ak_wrong"), "the API key is not valid"),
    ],
)
def test_what_is_refused_says_why(platform: CommandLine, arguments: tuple[str, ...], detail: str):
    assert detail in platform.fails(*arguments)


def test_elsewhere_than_on_the_host_a_hint_is_given(platform: CommandLine):
    said = platform.fails("tenant", "list", APPLIANCE_HOME="/nonexistent")
    assert "run/admin.url cannot be read" in said
    assert "is the appliance running?" in said
