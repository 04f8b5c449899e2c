"""Talking to the Docker daemon: a bounded pool of threads, a deadline on every call, a circuit breaker.

The SDK blocks and a daemon can hang without closing anything. A call that is late is given up by its caller at
its deadline, and by its thread when the socket's own timeout, the same length, has passed.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from docker import APIClient
from docker.errors import APIError, DockerException
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from appliance.kernel.clock import Clock
from appliance.launchers.docker.breaker import CircuitBreaker
from appliance.launchers.errors import LauncherUnavailable

QUICK_S = 5
_PING_S = 2
_SLACK_S = 0.5
_COOL_OFF_S = 3.0
_THREADS = 8

_Result = TypeVar("_Result")


class DockerDaemon:
    def __init__(self, host: str, clock: Clock) -> None:
        self._host = host
        self._breaker = CircuitBreaker(clock, cool_off_s=_COOL_OFF_S)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._local = threading.local()
        self._clients: list[APIClient] = []

    async def call(self, work: Callable[[APIClient], _Result], *, timeout_s: int = QUICK_S) -> _Result:
        """`work`'s result. The daemon's own refusal (`APIError`) and `work`'s own errors pass through.

        Raises `LauncherUnavailable` when the daemon is down, late, or was so a moment ago; then it is not known
        whether the daemon did what it was asked.
        """
        return await self._call(work, timeout_s, timeout_s + _SLACK_S)

    async def follow(self, work: Callable[[APIClient], _Result], *, silence_s: int) -> _Result:
        """As `call`, for work that may take as long as it likes while the daemon says something every `silence_s`."""
        return await self._call(work, silence_s, None)

    async def _call(self, work: Callable[[APIClient], _Result], timeout_s: int, deadline_s: float | None) -> _Result:
        self._breaker.enter()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(deadline_s):
                result = await loop.run_in_executor(self._pool, self._work, work, timeout_s)
        except APIError:
            self._breaker.succeeded()
            raise
        except TimeoutError:
            raise self._failed(f"Docker at {self._host} has not answered within {timeout_s} s.") from None
        except (DockerException, RequestException, HTTPError) as error:
            raise self._failed(f"Docker at {self._host} does not answer: {_innermost(error)}.") from error
        self._breaker.succeeded()
        return result

    async def ping(self) -> None:
        """Before calls with a long deadline, so that a hanging daemon is noticed quickly."""
        await self.call(lambda client: client.ping(), timeout_s=_PING_S)

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for client in self._clients:
            client.close()

    def _work(self, work: Callable[[APIClient], _Result], timeout_s: int) -> _Result:
        self._knock()
        client = self._client(timeout_s)
        # The SDK reads it for each request.
        client.timeout = timeout_s
        return work(client)

    def _knock(self) -> None:
        """Connect once before the SDK does, which leaves an open socket behind for each connection that fails."""
        scheme, _, path = self._host.partition("://")
        if scheme == "unix":
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(_PING_S)
                try:
                    probe.connect(path)
                except OSError as error:
                    raise DockerException(f"no connection to {path}") from error

    def _client(self, timeout_s: int) -> APIClient:
        """One client a thread, made when the daemon first answers, since it negotiates the API's version."""
        client: APIClient | None = getattr(self._local, "client", None)
        if client is None:
            client = APIClient(self._host, version="auto", timeout=timeout_s)
            self._local.client = client
            self._clients.append(client)
        return client

    def _failed(self, reason: str) -> LauncherUnavailable:
        self._breaker.failed(reason)
        return LauncherUnavailable(reason)


def _innermost(error: BaseException) -> str:
    """The operating system's words, which the SDK wraps several times."""
    while error.__context__ is not None:
        error = error.__context__
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
