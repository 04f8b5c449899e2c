"""The platform's objects from the command line: gateways, compute, runtimes, images, audit, status."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import CommandLine, rows
from tests.support.ports import free_port


def test_status(platform: CommandLine):
    shown = platform.json("status")
    assert (shown["launcher"], shown["database"]) == ("process", "sqlite")
    assert {"services", "snapshot", "audit-seal"} <= {reconciler["name"] for reconciler in shown["reconcilers"]}
    assert "RECONCILER" in platform.ok("status")


def test_gateways(platform: CommandLine):
    port = str(free_port())
    made = platform.json("gateway", "create", "second", "--first-port", port, "--ports", "1", "--host", "127.0.0.1")
    assert made["free_ports"] == [int(port)]
    assert {"second", "default"} == {row[0] for row in rows(platform.ok("gateway", "list"))}
    assert {"second", "default"} == {item["name"] for item in platform.json("gateway", "list")}
    assert f"{port}  free" in platform.ok("gateway", "show", "second")
    assert platform.json("gateway", "show", made["id"])["name"] == "second"
    assert platform.json("gateway", "update", "second", "--close")["state"] == "closed"
    assert "third" in platform.ok("gateway", "update", "second", "--rename", "third", "--open")
    assert platform.json("gateway", "delete", "third")["state"] == "deleted"
    assert "port-range-refused" in platform.fails("gateway", "create", "bad", "--first-port", "33000")
    assert platform.ok("gateway", "create", "fourth", "--first-port", port, "--ports", "1")
    assert platform.ok("gateway", "delete", "fourth", "--yes") == "gateway fourth: deleted\n"


def test_pools(platform: CommandLine):
    made = platform.json("pool", "create", "lab", "--description", "for trials")
    assert "for trials" in platform.ok("pool", "show", "lab")
    assert platform.json("pool", "show", made["id"])["name"] == "lab"
    assert {"lab", "default"} == {row[0] for row in rows(platform.ok("pool", "list"))}
    assert {"lab", "default"} == {item["name"] for item in platform.json("pool", "list")}
    assert platform.json("pool", "update", "lab", "--rename", "laboratory")["name"] == "laboratory"
    assert "trials" in platform.ok("pool", "update", "laboratory", "--description", "trials")
    assert platform.json("pool", "delete", "laboratory")["state"] == "deleted"
    assert "created_at" in platform.ok("pool", "create", "empty")
    assert platform.ok("pool", "delete", "empty") == "pool empty: deleted\n"


def test_nodes_and_devices(platform: CommandLine):
    (node,) = platform.json("node", "list")
    assert platform.json("node", "show", node["name"])["id"] == node["id"]
    assert node["id"] in platform.ok("node", "show", node["id"])
    assert rows(platform.ok("node", "list"))[0][0] == node["name"]
    platform.ok("pool", "create", "elsewhere")
    assert platform.json("node", "list", "--pool", "elsewhere") == []
    assert "pool_id" in platform.ok("node", "move", node["name"], "elsewhere")
    assert platform.json("node", "move", node["name"], "default")["pool_id"] == node["pool_id"]
    platform.ok("pool", "delete", "elsewhere")
    assert platform.json("device", "list", "--node", node["name"]) == []
    assert platform.ok("device", "list") == ""
    for command in (("show",), ("clear",), ("fence", "--reason", "smoke")):
        said = platform.fails("device", command[0], "dev_00000000000000000000", *command[1:])
        assert "dev_00000000000000000000" in said


def test_flavors(platform: CommandLine):
    made = platform.json("flavor", "create", "half", "--cpus", "0.5", "--memory", "512M", "--tmp", "1.5GiB")
    assert (made["memory_bytes"], made["tmp_bytes"], made["device_vendor"]) == (512 << 20, 3 << 29, None)
    assert "half" in platform.ok("flavor", "show", "half")
    assert platform.json("flavor", "show", made["id"])["cpus"] == 0.5
    assert "512 MiB" in platform.ok("flavor", "list")
    assert "half" in {item["name"] for item in platform.json("flavor", "list")}
    changed = platform.json("flavor", "update", "half", "--vendor", "nvidia", "--devices", "1", "--rename", "whole")
    assert (changed["name"], changed["device_vendor"], changed["devices"]) == ("whole", "nvidia", 1)
    assert platform.json("flavor", "update", "whole", "--vendor", "any")["device_vendor"] is None
    assert "more" in platform.ok("flavor", "update", "whole", "--description", "more")
    assert platform.ok("flavor", "delete", "whole") == "flavor whole: deleted\n"
    assert "created_at" in platform.ok("flavor", "create", "tiny", "--cpus", "1", "--memory", "1024")
    assert platform.json("flavor", "delete", "tiny")["state"] == "deleted"
    assert "is no size" in platform.fails("flavor", "create", "x", "--cpus", "1", "--memory", "much", status=2)


def test_runtimes(platform: CommandLine):
    assert {"light", "transformers", "vllm"} == {row[0] for row in rows(platform.ok("runtime", "list"))}
    assert {"light", "transformers", "vllm"} == {item["name"] for item in platform.json("runtime", "list")}
    assert platform.json("runtime", "show", "vllm")["mode"] == "high-performance"
    assert "Light" in platform.ok("runtime", "show", "light")
    assert "there is no runtime 'none'" in platform.fails("runtime", "show", "none")


def test_an_environment_is_built_where_one_is_needed(platform: CommandLine):
    assert platform.json("runtime", "build", "light")["python"] == sys.executable
    assert "engine_version" in platform.ok("runtime", "build", "light")
    assert "there is no runtime 'none'; there are: light" in platform.fails("runtime", "build", "none")
    line = platform.ok("runtime", "build", "vllm", "--docker", "--print")
    assert line.startswith("APPLIANCE_ENGINES__ENVIRONMENTS=")
    assert line.endswith("/images/build.sh vllm\n")
    assert "--print belongs to --docker" in platform.fails("runtime", "build", "vllm", "--print", status=2)


def test_images(platform: CommandLine):
    reference = "registry.example/light:2"
    register = ("image", "register", "--runtime", "light", "--engine-version", "2")
    made = platform.json(*register, reference)
    assert reference in {row[1] for row in rows(platform.ok("image", "list"))}
    assert reference in {item["reference"] for item in platform.json("image", "list", "--runtime", "light")}
    assert platform.json("image", "show", reference)["id"] == made["id"]
    assert reference in platform.ok("image", "show", made["id"])
    assert platform.json("image", "delete", reference)["state"] == "withdrawn"
    assert "reference" in platform.ok(*register, reference)
    assert platform.ok("image", "delete", reference) == f"image {reference}: withdrawn\n"
    assert "there is no image" in platform.fails("image", "show", reference)
    assert "comes with the runtime" in platform.fails("image", "delete", "appliance/light:1")


def test_audit(platform: CommandLine, tmp_path: Path):
    platform.ok("tenant", "create", "audited")
    (event,) = platform.json("audit", "list", "--action", "tenant.created", "--limit", "1")
    assert event["actor_name"] == "operator"
    assert "tenant.created" in platform.ok("audit", "list", "--actor", "operator", "--target", event["target_id"])
    assert platform.json("audit", "list", "--until", "2020-01-01") == []
    lines = [json.loads(line) for line in platform.ok("audit", "export", "--since", "1h").splitlines()]
    assert event["id"] in {line["id"] for line in lines}
    file = tmp_path / "audit.jsonl"
    assert platform.ok("audit", "export", "--output", str(file)) == ""
    assert len(file.read_text().splitlines()) >= len(lines)
    assert platform.json("audit", "verify")["broken_at"] is None
    assert "sealed" in platform.ok("audit", "verify")
    platform.ok("tenant", "delete", "audited")


def test_a_terminal_is_asked_before_something_is_deleted(platform: CommandLine):
    platform.ok("pool", "create", "kept")
    assert "Delete pool kept? [y/N]" in _at_a_terminal(platform, "n\n", "pool", "delete", "kept")
    assert platform.json("pool", "show", "kept")["name"] == "kept"
    assert "pool kept: deleted" in _at_a_terminal(platform, "y\n", "pool", "delete", "kept")
    platform.ok("pool", "create", "kept")
    assert "[y/N]" not in _at_a_terminal(platform, "", "pool", "delete", "kept", "--yes")


def _at_a_terminal(platform: CommandLine, typed: str, *arguments: str) -> str:
    """What is shown to someone who types."""
    keyboard, terminal = pty.openpty()
    try:
        os.write(keyboard, typed.encode())
        done = subprocess.run(
            [sys.executable, "-m", "appliance.cli.main", *arguments],
            env=platform.appliance.environ,
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(terminal)
        os.close(keyboard)
    return done.stdout


def test_settings_are_shown_and_checked(platform: CommandLine):
    assert json.loads(platform.ok("run", "--check"))["launcher"] == "process"
    assert "did you mean 'admin_port'" in platform.fails("run", "--check", APPLIANCE_ADMIN_PROT="1")
    assert "error:" in platform.fails("run", APPLIANCE_TENANT_PORT="-1")


def test_watching_devices(platform: CommandLine):
    """On a machine without any: how they are shown is tested where there are some."""
    assert platform.json("gpu", "top") == []
    told = platform.ok("gpu", "top", "--once", "--pool", "default")
    assert told.startswith("devices 0")
    assert told.endswith("no devices\n")
    assert "not-found" in platform.fails("gpu", "top", "--once", "--node", "nowhere")
    assert "not-found" in platform.fails("gpu", "history", "dev_nowhere", "--since", "2h")
    assert "name one of" in platform.fails("gpu", "history", "--node", "n1", "--platform", status=2)
    assert {"free", "fragmentation"} <= {
        each["name"] for each in platform.json("gpu", "history", "--platform")["gauges"]
    }
    (node,) = platform.json("node", "list")
    assert platform.json("gpu", "history", "--node", node["name"])["times"] == []
    platform.ok("tenant", "create", "watched")
    held = platform.json("gpu", "history", "--held", "--tenant", "watched", "--since", "10m")
    assert [each["name"] for each in held["gauges"]] == ["devices", "memory_claimed", "replicas"]
    (total,) = platform.json("usage", "devices", "--since", "1d")["items"]
    assert total["device_seconds"] == 0
    assert "DEVICE SECONDS" in platform.ok("usage", "devices")
    assert platform.ok("usage", "devices", "--group-by", "service", "--group-by", "day", "--csv").splitlines() == [
        "service,day,device_seconds"
    ]
