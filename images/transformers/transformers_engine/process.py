"""The life of one server process: listen, load, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import uvicorn

from .metrics import Metrics
from .options import Options
from .phases import report
from .routes import create_app
from .service import ServiceState

logger = logging.getLogger(__name__)
SOCKET_UMASK = 0o007
"""Owner and group may connect; the folder around the socket decides who gets that far."""
BACKLOG = 1024
T = TypeVar("T")


class Server(uvicorn.Server):
    """uvicorn without its signal handling, which ends the process by the signal and not with a status."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Process:
    """The HTTP side is up from the start and answers 503 until the model is there."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._state = ServiceState(Metrics(options.served_model_name))
        self._status = 0
        self._server = Server(
            uvicorn.Config(
                create_app(self._state),
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=options.shutdown_timeout,
            )
        )

    async def run(self) -> int:
        """Serve until a signal or a failure; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, 0)
        listener = listen(self._options)
        loading = asyncio.create_task(self._load())
        try:
            await self._server.serve(sockets=[listener])
        finally:
            loading.cancel()
            if self._options.uds is not None:
                self._options.uds.unlink(missing_ok=True)
        return self._status

    def _stop(self, status: int) -> None:
        """Stop accepting, let running requests finish within the shutdown timeout, then leave `run`."""
        self._status = self._status or status
        self._server.should_exit = True

    async def _load(self) -> None:
        try:
            startup = await in_daemon_thread(lambda: importlib.import_module(".startup", __package__))
            prepared = await in_daemon_thread(lambda: startup.prepare(self._options))
            service = startup.serve(
                self._options, prepared, metrics=self._state.metrics, on_death=lambda: self._stop(1)
            )
        except Exception as error:
            logger.exception("the model cannot be served")
            report("failed", reason=f"{type(error).__name__}: {error}")
            self._stop(1)
        else:
            self._state.open(service)
            report("ready")


def listen(options: Options) -> socket.socket:
    """The listening socket. A unix socket that is in the way is a dead process's: whoever starts an engine gives
    it a folder of its own.
    """
    if options.uds is None:
        return socket.create_server((options.host, options.port or 0), backlog=BACKLOG)
    options.uds.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(SOCKET_UMASK)
    try:
        listener.bind(str(options.uds))
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    return listener


def in_daemon_thread(work: Callable[[], T]) -> Awaitable[T]:
    """Like `asyncio.to_thread`, in a thread that does not hold up the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(setter: Callable[..., None], value: object) -> None:
        if not future.cancelled():
            setter(value)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - handed to whoever awaits
            loop.call_soon_threadsafe(settle, future.set_exception, error)
        else:
            loop.call_soon_threadsafe(settle, future.set_result, result)

    threading.Thread(target=run, name="loader", daemon=True).start()
    return future
