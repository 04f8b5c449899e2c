"""Grants, dedicated pools and gateways, labels and maintenance from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cli.conftest import CommandLine, rows
from tests.support.models import write_tiny_model
from tests.support.ports import free_port


@pytest.fixture
def lent(platform: CommandLine, acme: CommandLine) -> Iterator[str]:
    """A dedicated pool; the tenant `acme` is there."""
    assert acme.json("pool", "list")
    made = platform.json("pool", "create", "night", "--access", "dedicated", "--label", "rack=A1", "--label", "spare=")
    assert (made["access"], made["labels"]) == ("dedicated", {"rack": "A1", "spare": ""})
    yield "night"
    platform.ok("pool", "delete", "night")


def test_grants(platform: CommandLine, acme: CommandLine, lent: str):
    assert lent not in {pool["name"] for pool in acme.json("pool", "list")}
    assert f"there is no pool '{lent}'" in acme.fails("pool", "show", lent)
    made = platform.json("grant", "create", "acme", "--pool", lent, "--expires", "30d")
    assert (made["tenant"], made["kind"], made["target_name"]) == ("acme", "pool", lent)
    assert "grant-exists" in platform.fails("grant", "create", "acme", "--pool", lent)
    assert lent in {pool["name"] for pool in acme.json("pool", "list")}
    assert acme.json("grant", "list") == [made] == platform.json("grant", "list", "--of-tenant", "acme")
    assert platform.json("grant", "list", "--kind", "gateway") == []
    (row,) = rows(platform.ok("grant", "list", "--target", made["target"]))
    assert row[:3] == ["acme", "pool", lent]
    assert acme.json("grant", "show", made["id"]) == made
    assert platform.ok("grant", "preview", made["id"]).startswith("tenants 0, services 0, replicas 0, devices 0")
    assert platform.json("grant", "preview", made["id"], "--by", "expiry")["replicas"] == []
    assert platform.json("grant", "update", made["id"], "--never")["expires_at"] is None
    assert platform.json("grant", "update", made["id"], "--expires", "1h")["version"] == 3
    assert platform.ok("grant", "delete", made["id"]) == f"grant {made['id']}: deleted\n"


def test_grants_are_the_platforms_to_give(platform: CommandLine, acme: CommandLine):
    said = platform.fails("grant", "create", "acme", status=2)
    assert "give one of --pool, --gateway and --device-class" in said
    assert "there is no device of class 'nvidia/L4'; there are: none" in platform.fails(
        "grant", "create", "acme", "--device-class", "nvidia/L4"
    )
    assert "say when it ends" in platform.fails("grant", "update", "grt_0", status=2)


def test_reservations(platform: CommandLine, acme: CommandLine):
    create = ("reservation", "create", "acme", "--until", "1h", "--reason", "a demo")
    said = "pool default has no 1 equal devices of class nvidia/L4 that are healthy, open and not reserved then"
    assert said in platform.fails(*create, "--pool", "default", "--count", "1", "--device-class", "nvidia/L4")
    assert "there is no device 'dev_1'" in platform.fails(*create, "--devices", "dev_1,dev_2")
    assert "say which devices" in platform.fails(*create, status=2)
    assert "say which devices" in platform.fails(*create, "--pool", "default", status=2)
    assert "is past" in platform.fails(*create, "--devices", "dev_1", "--from", "2020-01-01T00:00")
    assert platform.json("reservation", "list", "--of-tenant", "acme") == acme.json("reservation", "list") == []
    assert "there is no reservation 'rsv_1'" in platform.fails("reservation", "delete", "rsv_1")
    assert "there is no reservation 'rsv_1'" in acme.fails("reservation", "show", "rsv_1")


def test_a_dedicated_gateway(platform: CommandLine, acme: CommandLine):
    port = str(free_port())
    opened = ("gateway", "create", "vip", "--first-port", port, "--ports", "1", "--host", "127.0.0.1")
    assert platform.json(*opened, "--access", "dedicated")["access"] == "dedicated"
    assert "vip" not in {gateway["name"] for gateway in acme.json("gateway", "list")}
    assert "there is no gateway 'vip'" in acme.fails("gateway", "show", "vip")
    granted = platform.json("grant", "create", "acme", "--gateway", "vip")
    assert acme.json("gateway", "show", "vip")["free_ports"] == [int(port)]
    assert platform.json("grant", "delete", granted["id"], "--force")["state"] == "deleted"
    assert platform.json("gateway", "update", "vip", "--access", "public")["access"] == "public"
    assert "vip" in {gateway["name"] for gateway in acme.json("gateway", "list")}
    platform.ok("gateway", "delete", "vip")


def test_maintenance(platform: CommandLine):
    name = platform.json("node", "list")[0]["name"]
    assert platform.json("node", "label", name, "--label", "rack=A1")["labels"] == {"rack": "A1"}
    assert platform.json("node", "label", name)["labels"] == {}
    assert "is not of the form KEY=VALUE" in platform.fails("node", "label", name, "--label", "x", status=2)
    assert platform.json("node", "preview", name)["fitting"] == 0
    closed = platform.json("node", "cordon", name, "--reason", "new firmware")
    assert (closed["cordon"]["reason"], closed["cordon"]["draining"]) == ("new firmware", False)
    assert "cordoned  new firmware" in platform.ok("node", "list")
    assert "--reason" in platform.fails("node", "drain", name, status=2)
    assert platform.json("node", "drain", name, "--reason", "new disks")["cordon"]["draining"] is True
    assert platform.json("node", "list", "--label", "rack=A1") == []
    assert platform.json("node", "uncordon", name)["cordon"] is None
    missing = "dev_00000000000000000000"
    for command in (("cordon", "--reason", "x"), ("drain", "--reason", "x"), ("uncordon",), ("preview",)):
        assert missing in platform.fails("device", command[0], missing, *command[1:])
    assert missing in platform.fails("device", "move", missing, "default")
    assert "give a POOL, or --back" in platform.fails("device", "move", missing, status=2)


def test_a_drain_is_waited_for(platform: CommandLine):
    platform.ok("tenant", "create", "moving")
    tenant = CommandLine(platform.appliance, "moving")
    folder = write_tiny_model(platform.appliance.models / "moving", seed=5)
    tenant.ok("model", "import", "tiny", "--from", str(folder))
    tenant.ok("service", "create", "chat", "--model", "tiny", "--runtime", "light", "--wait")
    name = platform.json("node", "list")[0]["name"]
    before = platform.ok("node", "preview", name)
    assert "moving" in before
    assert "cordoned for maintenance" in before
    drained = platform.appliance.cli("node", "drain", name, "--reason", "new disks", "--wait", "--json")
    assert drained.returncode == 0, drained.stderr
    assert json.loads(drained.stdout)["replicas"] == 0
    assert "replicas are left" in drained.stderr
    platform.ok("node", "uncordon", name)
    tenant.ok("service", "delete", "chat", "--wait")
