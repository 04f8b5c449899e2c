"""The corpus against nginx as a proxy: where the two do not decide alike, `DIFFERENCES` says so, and why."""

import getpass
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.plane.conformance.cases import FRAMED, Case
from tests.plane.conformance.differences import DIFFERENCES, HEADLESS
from tests.plane.fake_engine import Answer, EngineRequest, FakeEngine, completion, fake_engine
from tests.plane.harness import Connection
from tests.support.ports import free_port
from tests.support.requirements import Requirement, unavailable
from tests.support.waiting import eventually

CONFIGURATION = """
daemon off;
master_process off;
{user}
pid {home}/pid;
error_log {home}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  client_header_buffer_size 32k;
  large_client_header_buffers 1 32k;
  client_max_body_size 32m;
  proxy_ignore_client_abort on;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://unix:{engine}:; }}
  }}
}}
"""


async def answer_anything(request: EngineRequest, answer: Answer) -> None:
    if request.line.startswith("HEAD "):
        await answer.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    else:
        await answer.json(completion())


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeEngine]:
    with fake_engine(tmp_path_factory.mktemp("engine") / "engine.sock") as engine:
        yield engine


@pytest.fixture(scope="module")
def nginx_port(tmp_path_factory: pytest.TempPathFactory, recording: FakeEngine) -> Iterator[int]:
    binary = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if binary is None:
        unavailable(Requirement.NGINX, "nginx is not installed")
    home, port = tmp_path_factory.mktemp("nginx"), free_port()
    user = "user root;" if getpass.getuser() == "root" else ""
    written = home / "nginx.conf"
    written.write_text(CONFIGURATION.format(home=home, port=port, engine=recording.path, user=user))
    process = subprocess.Popen([binary, "-e", str(home / "error.log"), "-c", str(written), "-p", str(home)])
    try:
        eventually(lambda: _accepts(port), message="nginx serves")
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return False
    return True


def said(port: int, case: Case) -> tuple[int, ...]:
    """The statuses of all answers, to the connection's end."""
    statuses: list[int] = []
    with Connection(port) as connection:
        try:
            connection.send(case.sent)
            connection.socket.shutdown(socket.SHUT_WR)
        except OSError:
            assert connection.receive(), "closed while we sent, and without an answer"  # it is read below
        while not connection.at_end():
            try:
                answer = connection.answer(head_only=len(statuses) in case.heads)
            except EOFError:
                statuses.append(HEADLESS)
                break
            if answer.status != 100:
                statuses.append(answer.status)
    return tuple(statuses)


def test_every_difference_is_of_a_case() -> None:
    assert set(DIFFERENCES) <= {case.name for case in FRAMED}


@pytest.mark.nginx
@pytest.mark.parametrize("case", FRAMED, ids=lambda case: case.name)
def test_nginx(nginx_port: int, recording: FakeEngine, case: Case) -> None:
    recording.reset()
    recording.script = answer_anything

    statuses = said(nginx_port, case)

    expected = (case.statuses, len(case.seen))
    if case.name in DIFFERENCES:
        difference = DIFFERENCES[case.name]
        assert (difference.statuses, difference.arrived) != expected, "no difference any more"
        expected = (difference.statuses, difference.arrived)
    assert (statuses, len(recording.requests)) == expected
