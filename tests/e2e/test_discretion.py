"""An engine that prints where it lies: its tenant reads no folder of the host, an administrator reads all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.appliance import ENGINES, Appliance, Tenant, done, prepared
from tests.support.waiting import eventually

RUNTIME = (ENGINES / "light" / "runtime.toml").read_text()


def _telling(folder: Path) -> None:
    """A runtime whose engine fails with the paths of its model and socket."""
    folder.mkdir(parents=True)
    text = RUNTIME.replace('name = "light"', 'name = "telling"', 1)
    before = '"-I", "-S", "{runtime_dir}/light_engine.py", "--uds={socket}"'
    program = "import sys; print(sys.argv[2]); open(sys.argv[1] + '/none')"
    assert before in text
    (folder / "runtime.toml").write_text(text.replace(before, f'"-c", "{program}", "{{model}}", "{{socket}}"', 1))


def _everything(client: Any) -> str:
    """What a client is told of the service, in all places."""
    shown = done(client.get("services/chat"))
    events = done(client.get("services/chat/events"))
    log = client.get("services/chat/logs", params={"replica": shown["deployments"][0]["current"][-1]["id"]}).text
    listed = done(client.get("services"))
    return f"{shown} {events} {log} {listed}"


def _failed(tenant: Tenant) -> bool:
    return bool(done(tenant.client.get("services/chat"))["deployments"][0]["failures"])


def test_a_tenant_reads_no_folder_of_the_host() -> None:
    with prepared() as appliance:
        _telling(appliance.home.parent / "runtimes" / "telling")
        appliance.environ["APPLIANCE_ENGINES__RUNTIME_FOLDERS"] += f",{appliance.home.parent / 'runtimes'}"
        appliance.start()
        tenant = Tenant.create(appliance)
        tenant.publish("chat", runtime="telling")
        eventually(lambda: _failed(tenant), 60, message="the engine failed")
        own = tenant.key("reader", scopes=["service:read"])

        told = _everything(appliance.client(own, url=appliance.tenant_url))
        assert "run/engine.sock" in told
        assert "model/none" in told
        _is_silent(appliance, told)
        assert str(appliance.home) in _everything(tenant.client)


def _is_silent(appliance: Appliance, told: str) -> None:
    assert str(appliance.home) not in told
    assert str(appliance.home.parent) not in told
