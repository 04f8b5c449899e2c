"""Three listening ports in one event loop: administration and tenants over TLS, metrics on loopback.

The sockets are bound before anything else is started, so that a taken port is an error at once. Signals belong to
the composition root, not to the servers.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from appliance.kernel.errors import Misconfigured
from appliance.kernel.tls import ServerTls

_BACKLOG = 512
_GRACE_S = 5


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket; `Misconfigured` names the setting where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        hint = " (ports below 1024 need root or CAP_NET_BIND_SERVICE)" if isinstance(error, PermissionError) else ""
        raise Misconfigured(f"{setting} {port} on {host} cannot be bound: {error.strerror}{hint}") from error
    sock.listen(_BACKLOG)
    return sock


@dataclass(frozen=True, slots=True)
class Site:
    """One application on one socket."""

    app: Any
    socket: socket.socket
    tls: ServerTls | None

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])


class Serving:
    """Serves the sites until `stop`."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites
        self._servers = [_Server(_config(site)) for site in sites]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Return once every site accepts connections."""
        self._tasks = [
            asyncio.create_task(server.serve(sockets=[site.socket]))
            for server, site in zip(self._servers, self._sites, strict=True)
        ]
        while not all(server.started for server in self._servers):
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Stop accepting, let running requests end within the grace time."""
        for server in self._servers:
            server.should_exit = True
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _config(site: Site) -> uvicorn.Config:
    config = uvicorn.Config(
        site.app,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=str(site.tls.certificate) if site.tls else None,
        ssl_keyfile=str(site.tls.key) if site.tls else None,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return config
