"""Root's appliance with a user of its own for the gateway: the whole way works, and that user reads no secret."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from appliance.gateway.user import resolve
from appliance.kernel.errors import Misconfigured
from tests.support.appliance import Appliance, Tenant, prepared
from tests.support.processes import ProcessTable
from tests.support.waiting import eventually

USER = "nobody"
OPEN = "import sys; open(sys.argv[1], 'rb').read()"
LIST = "import os, sys; os.listdir(sys.argv[1])"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts processes of another user")


def _as_user(program: str, path: Path) -> subprocess.CompletedProcess[str]:
    entry = pwd.getpwnam(USER)
    command = [sys.executable, "-S", "-c", program, str(path)]
    return subprocess.run(
        command, user=entry.pw_uid, group=entry.pw_gid, extra_groups=[], capture_output=True, text=True, check=False
    )


def _may_run() -> bool:
    try:
        return _as_user("", Path("/")).returncode == 0
    except PermissionError:
        return False


@pytest.fixture(scope="module")
def appliance() -> Iterator[Appliance]:
    if not _may_run():
        pytest.skip(f"user {USER} may not run {sys.executable}")
    with prepared(APPLIANCE_GATEWAY__USER=USER, APPLIANCE_GATEWAY__TLS="true") as appliance:
        appliance.home.parent.chmod(0o711)
        appliance.start()
        yield appliance


@pytest.fixture(scope="module")
def used(appliance: Appliance) -> Tenant:
    """A tenant whose service has answered, through workers of that user."""
    tenant = Tenant.create(appliance)
    tenant.publish("chat")
    url = tenant.until("chat", "ready", 60)["url"]
    secret = tenant.key()
    body = {"model": "chat", "messages": [{"role": "user", "content": "a b"}], "max_tokens": 4}

    def answered() -> bool:
        headers = {"Authorization": f"Bearer {secret}"}
        answer = httpx.post(f"{url}/chat/completions", json=body, headers=headers, verify=False)
        return answer.status_code == httpx.codes.OK

    eventually(answered, 30, message="an answer through the gateway")
    eventually(lambda: len(appliance.rows("usage_records")) >= 1, 30, message="its usage is taken in")
    return tenant


@needs_root
def test_supervisor_and_workers_are_the_users(appliance: Appliance, used: Tenant) -> None:
    table = ProcessTable.snapshot()
    plane = [
        process for process in table.mentioning("appliance.gateway.plane.") if str(appliance.home) in process.arguments
    ]
    uids = {Path(f"/proc/{process.pid}").stat().st_uid for process in plane}
    assert len(plane) >= 3
    assert uids == {pwd.getpwnam(USER).pw_uid}
    assert f"run as user '{USER}'" in httpx.get(f"{appliance.metrics_url}/readyz").text
    assert used.service("chat")["state"] == "ready"


@needs_root
def test_that_user_reads_what_it_needs_and_no_secret(appliance: Appliance, used: Tenant) -> None:
    home = appliance.home
    readable = [home / "gateway" / "snapshot" / "manifest.json", home / "gateway" / "tls" / "server.key"]
    assert {path: _as_user(OPEN, path).returncode for path in readable} == dict.fromkeys(readable, 0)

    secret = [*home.glob("db/*.sqlite"), *home.glob("secrets/*"), home / "operator.key"]
    secret += [*home.glob("models/versions/*/*")][:2] + [*home.glob("logs/replicas/*.log")][:1]
    assert len(secret) >= 7
    for path in secret:
        assert "PermissionError" in _as_user(OPEN, path).stderr, path
    for name in ("models", "db", "secrets", "cache", "captures", "logs/replicas", "gateway/spool/quarantine"):
        assert "PermissionError" in _as_user(LIST, home / name).stderr, name
    assert used.service("chat")["state"] == "ready"


@needs_root
def test_a_home_that_was_roots_is_handed_over(appliance: Appliance, used: Tenant) -> None:
    """Files that an earlier start left to root, among them locks, do not keep the workers from starting."""
    assert appliance.stop() == 0
    for path in [*appliance.home.glob("run/worker-*"), *appliance.home.glob("gateway/spool/worker-*/*")]:
        os.chown(path, 0, 0, follow_symlinks=False)
    appliance.start()
    used.until("chat", "ready", 60)


@needs_root
def test_a_user_that_cannot_be_is_refused_at_the_start() -> None:
    with pytest.raises(Misconfigured, match="this machine has no user 'no-such-user'"):
        resolve("no-such-user", engines_uid=None)
    with pytest.raises(Misconfigured, match=r"docker.user 10001: .* set gateway.user to 10001"):
        resolve(USER, engines_uid=10001)
    user = resolve("10001", engines_uid=10001)
    assert user is not None
    assert (user.uid, user.gid) == (10001, 10001)
    assert resolve("root", engines_uid=None) is None
    assert resolve("", engines_uid=None) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may start processes of another user")
def test_who_is_not_root_is_told() -> None:
    with pytest.raises(Misconfigured, match="only root can start processes of another user"):
        resolve("root", engines_uid=None)
