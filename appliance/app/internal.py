"""The internal port, on loopback: `/metrics` for Prometheus, `/healthz` (it lives), `/readyz` (it can work)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from appliance.kernel.activation import Activations
from appliance.kernel.db import Database
from appliance.kernel.errors import ApplianceError
from appliance.observe import metrics as holdings
from appliance.observe.recorder import Telemetry
from gpu import metrics as devices

Scope = dict[str, object]
Receive = Callable[[], Awaitable[dict[str, object]]]
Send = Callable[[dict[str, object]], Awaitable[None]]
GatewayMetrics = Callable[[], Awaitable[str]]
_DEVICES = b"# the devices are not told: the database does not answer\n"


class Internal:
    """A small ASGI application of three paths."""

    def __init__(
        self,
        database: Database,
        activations: Activations,
        gateway_metrics: GatewayMetrics,
        telemetry: Telemetry,
        *,
        gateway_user: str,
    ) -> None:
        self._telemetry = telemetry
        self._ready = f"ready\nthe gateway's workers run as {gateway_user}\n".encode()
        self._database, self._activations, self._gateway_metrics = database, activations, gateway_metrics
        self._registry = CollectorRegistry()
        ProcessCollector(namespace="appliance_control", registry=self._registry)
        PlatformCollector(registry=self._registry)
        labels = ["reconciler"]
        self._rounds = Gauge("appliance_reconciler_rounds", "Rounds since start", labels, registry=self._registry)
        self._failures = Gauge(
            "appliance_reconciler_failures", "Failed rounds since start", labels, registry=self._registry
        )
        self._seconds = Gauge(
            "appliance_reconciler_last_seconds", "Duration of the last round", labels, registry=self._registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        if scope["type"] != "http":
            return
        status, body = await self._answer(str(scope["path"]))
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, path: str) -> tuple[int, bytes]:
        match path:
            case "/healthz":
                return 200, b"ok\n"
            case "/readyz":
                return await self._readiness()
            case "/metrics":
                gateway = (await self._gateway_metrics()).encode()
                return 200, self._own_metrics() + await self._devices() + gateway
            case _:
                return 404, b"/metrics, /healthz or /readyz\n"

    async def _readiness(self) -> tuple[int, bytes]:
        try:
            await self._database.ping()
        except ApplianceError as error:
            return 503, f"{error.detail}\n".encode()
        return 200, self._ready

    async def _devices(self) -> bytes:
        try:
            async with self._database.read() as session:
                return await devices.exposition(session) + await holdings.exposition(session, self._telemetry)
        except ApplianceError:
            return _DEVICES

    def _own_metrics(self) -> bytes:
        for status in self._activations.statuses():
            self._rounds.labels(status.name).set(status.rounds)
            self._failures.labels(status.name).set(status.failures)
            self._seconds.labels(status.name).set(status.last_duration_s or 0)
        return generate_latest(self._registry)
