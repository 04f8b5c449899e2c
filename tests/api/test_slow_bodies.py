"""Whoever sends a request's body slowly, or never, holds up nobody: no transaction waits for a client."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from appliance.api.context import Port
from appliance.api.openapi import document
from tests.api.specimens import Operation, operations
from tests.support.appliance import Appliance, Tenant, done

WRITES = [operation for operation in operations(document(Port.admin)) if operation.writes]
AT_ONCE = 4
"""As many as SQLite has places for requests: one for each of them would be enough to hold up all."""


@pytest.fixture(scope="module")
def tenant(appliance: Appliance) -> Tenant:
    return Tenant.named(appliance, "slow")


@pytest.mark.parametrize("operation", WRITES, ids=str)
def test_a_body_that_does_not_come_holds_up_nobody(appliance: Appliance, tenant: Tenant, operation: Operation) -> None:
    with ExitStack() as stack:
        for number in range(AT_ONCE):
            stack.enter_context(begun(appliance, tenant.client, operation, number))
        with appliance.client() as other:
            done(other.patch("tenants/slow", json={"priority": "low"}, timeout=8))
            done(other.get("tenants/slow", timeout=8))


@contextmanager
def begun(appliance: Appliance, client: httpx.Client, operation: Operation, number: int) -> Iterator[None]:
    """A request of which a byte of the body has come, and that the appliance has begun with: it asks for the rest."""
    url = urlsplit(appliance.url)
    assert url.hostname is not None
    fields = {
        **client.headers,
        "Host": url.netloc,
        "Content-Type": "application/json",
        "Content-Length": "100",
        "Idempotency-Key": f"slow-{operation.id}-{number}",
        "Expect": "100-continue",
    }
    path = operation.path.format_map(_Missing())
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    context = ssl.create_default_context(cafile=str(appliance.home / "ca.pem"))
    with (
        socket.create_connection((url.hostname, url.port), timeout=8) as plain,
        context.wrap_socket(plain, server_hostname=url.hostname) as connection,
    ):
        connection.sendall(f"{operation.method} {path} HTTP/1.1\r\n{head}\r\n".encode())
        answer = connection.recv(4096)  # it asks for the body, or has refused the request without one
        assert answer.startswith(b"HTTP/1.1 "), answer
        if answer.startswith(b"HTTP/1.1 100"):
            connection.sendall(b"{")
        yield


class _Missing(dict[str, str]):
    def __missing__(self, _: str) -> str:
        return "missing"
