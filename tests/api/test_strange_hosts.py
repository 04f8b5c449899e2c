"""The `Host` header is the caller's word: it names no path, and no value of it makes the appliance stumble."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit

import pytest

from tests.support.appliance import Appliance


def ask(appliance: Appliance, path: str, host: str) -> tuple[int, bytes]:
    """Status and body of one GET with just this `Host`."""
    port = urlsplit(appliance.url).port
    trust = ssl.create_default_context(cafile=str(appliance.home / "ca.pem"))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


@pytest.mark.parametrize("host", ["localhost", "[", "a/?x=", "a/api/v1/logins#", "", "\xff", "a:b:c", "[::1"])
def test_a_strange_host_opens_nothing(appliance: Appliance, host: str) -> None:
    """It is refused, or has no part in the answer."""
    assert ask(appliance, "/nowhere", host)[0] in (400, 404)
    assert ask(appliance, "/api/v1/services", host)[0] in (400, 401)
    assert ask(appliance, "/api/v1/services?x=//", host)[0] in (400, 401)
