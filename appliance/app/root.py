"""The control plane's life: prepare, serve, stop in order. It alone owns resources and hears signals.

Order of starting: home and lock, TLS, sockets (a taken port is known before anything else happens), schema, control
lease, first facts (administrator, node, gateway), the applications, then the reconcilers. Stopping is the reverse;
with `on_stop = "stop-all"` the gateway and the engines go before the control plane does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import uvloop
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from appliance.api.apps import create
from appliance.api.context import Context, Port
from appliance.app import banner
from appliance.app.bootstrap import bootstrap
from appliance.app.build import Built, build, gateway_user
from appliance.app.demo import Demo
from appliance.app.demo_objects import DemoObjects
from appliance.app.home import Home
from appliance.app.internal import Internal
from appliance.app.migrating import upgrade
from appliance.app.serving import Serving, Site, bind
from appliance.app.ticking import ticking
from appliance.gateway.user import GatewayUser, prepare
from appliance.kernel import leases, logging, tls
from appliance.kernel.clock import SystemClock
from appliance.kernel.crypto import Passwords
from appliance.kernel.db import Database
from appliance.kernel.errors import ApplianceError, LeaseLost
from appliance.kernel.files import write_atomic
from appliance.kernel.settings import Settings
from appliance.services.shutdown import stop_all

log = logging.get_logger(__name__)
_LOOPBACK = "127.0.0.1"
_SUPERVISOR_MARGIN_S = 5.0
"""What the supervisor gets beyond its workers' drain before it is killed."""


def main(settings: Settings) -> int:
    """Run until a signal; the exit status."""
    as_json = settings.log.format == "json" or (settings.log.format == "auto" and not sys.stderr.isatty())
    logging.configure(level=settings.log.level, json=as_json)
    home = Home(settings.home_path)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(settings, home))
    finally:
        home.close()


async def _run(settings: Settings, home: Home) -> int:
    stopping, hurry = asyncio.Event(), asyncio.Event()

    def heard() -> None:
        (hurry if stopping.is_set() else stopping).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, heard)
    plane = ControlPlane(settings, home)
    try:
        await plane.start()
        await plane.run(until=stopping)
    finally:
        await plane.stop(hurry)
    return 0


class ControlPlane:
    """One running control plane; `start` once, then `stop` once, which also undoes a start that failed half-way.

    Engines and gateway that another control plane left running are stopped only by one that has started: a database
    that is down for a moment must not end anybody's traffic.
    """

    def __init__(self, settings: Settings, home: Home) -> None:
        self._settings, self._home = settings, home
        self._clock = SystemClock()
        self._passwords = Passwords()
        self._tls = tls.ensure(home.path, settings.hostnames, self._clock)
        self._gateway_user = gateway_user(settings)
        if self._gateway_user is not None:
            prepare(home.path, self._gateway_user)
        is_root = self._gateway_user is None and os.geteuid() == 0
        (log.warning if is_root else log.info)("gateway.user", runs_as=_told(self._gateway_user))
        self._sockets = [
            bind(settings.bind, settings.admin_port, "admin_port"),
            bind(settings.bind, settings.tenant_port, "tenant_port"),
            bind(_LOOPBACK, settings.metrics_port, "metrics_port"),
        ]
        self._database = Database(settings.database_url)
        self._built: Built | None = None
        self._serving: Serving | None = None
        self._scheduler: AsyncIOScheduler | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._has_started = False

    async def start(self) -> None:
        """Return when the ports answer; the demo, where asked for, goes on in the background."""
        await upgrade(self._settings.database_url)
        async with self._database.write() as session:
            owner = self._home.appliance_id()
            await leases.check_owner(session, "control", owner)
            lease = await leases.take(session, "control", f"{owner} pid {os.getpid()}", self._clock)
        built = self._built = build(self._settings, self._home, self._database, lease, self._passwords, self._clock)
        credentials = await bootstrap(
            self._settings,
            self._home,
            self._database,
            built.inventory,
            built.parts.port_rules,
            self._passwords,
            self._clock,
        )
        banner.show_credentials(credentials)
        self._database.activate = built.activations.activate
        sites = self._sites(built)
        self._serving = Serving(sites)
        await self._serving.start()
        self._start_reconcilers(built)
        self._has_started = True
        admin, tenant, metrics = (site.port for site in sites)
        write_atomic(self._home.path / "run" / "admin.url", f"https://{_LOOPBACK}:{admin}\n".encode())
        banner.show_started(self._settings, self._tls, admin=admin, tenant=tenant, metrics=metrics)
        log.info("control.started", admin_port=admin, tenant_port=tenant, metrics_port=metrics)
        if self._settings.demo:
            objects = DemoObjects(self._database, built, self._passwords, self._clock)
            demo = Demo(self._settings, self._home, built, objects)
            self._tasks.append(asyncio.create_task(demo.run(), name="demo"))

    async def run(self, *, until: asyncio.Event) -> None:
        """Return when `until` is set; `LeaseLost` when another control plane has taken over, whose the engines and
        the gateway are from then on.
        """
        if self._built is None:
            raise RuntimeError("a control plane is started before it runs")
        overtaken = self._built.activations.overtaken
        waits = [asyncio.create_task(event.wait()) for event in (until, overtaken)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if overtaken.is_set() and not until.is_set():
            self._has_started = False
            log.error("control.overtaken")
            raise LeaseLost("another control plane has taken over this installation's database; this one has ended")

    async def stop(self, hurry: asyncio.Event) -> None:
        """Stop ticking, reconciling, the gateway, the engines, serving; in this order. Once `hurry` is set, nobody is
        given time to finish.
        """
        if self._has_started:
            banner.show_stopping(self._settings)
        if self._scheduler is not None:
            self._scheduler.shutdown(wait=False)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            if self._built is not None:
                await self._stop_built(self._built, hurry)
        finally:
            if self._serving is not None:
                await self._serving.stop()
            for sock in self._sockets:
                sock.close()
            self._passwords.close()
            await self._database.close()
            log.info("control.stopped")

    def _sites(self, built: Built) -> list[Site]:
        database = self._database.for_callers()
        apps: list[Any] = [
            create(Context(port, self._settings, database, self._clock, self._passwords, built.parts))
            for port in (Port.admin, Port.tenant)
        ]
        internal = Internal(
            self._database,
            built.activations,
            built.gateway_metrics,
            built.telemetry,
            gateway_user=_told(self._gateway_user),
        )
        admin, tenant, metrics = self._sockets
        return [Site(apps[0], admin, self._tls), Site(apps[1], tenant, self._tls), Site(internal, metrics, None)]

    def _start_reconcilers(self, built: Built) -> None:
        for name, run in built.activations.runners().items():
            self._tasks.append(asyncio.create_task(run(), name=name))
        self._scheduler = ticking(built.activations, built.activations.periods)
        self._scheduler.start()

    async def _stop_built(self, built: Built, hurry: asyncio.Event) -> None:
        await built.services.close()
        if self._has_started and self._settings.on_stop == "stop-all":
            orderly = asyncio.create_task(self._stop_traffic(built, is_orderly=True))
            hurried = asyncio.create_task(hurry.wait())
            await asyncio.wait([orderly, hurried], return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
            if orderly.done():
                orderly.result()
            else:
                orderly.cancel()
                await asyncio.wait([orderly])
                banner.show_hurry()
                await self._stop_traffic(built, is_orderly=False)
        await built.inventory.close()
        built.parts.telemetry.close()
        await built.store_keeper.close()
        await built.launcher.close()

    async def _stop_traffic(self, built: Built, *, is_orderly: bool) -> None:
        drain_s, grace_s = self._settings.gateway.drain_s, self._settings.engines.stop_grace_s
        await built.keeper.stop(drain_s + _SUPERVISOR_MARGIN_S if is_orderly else 0)
        try:
            log.info("engines.stopped", count=await stop_all(built.machinery, grace_s=grace_s if is_orderly else 0))
            await built.ingest.reconcile()
        except ApplianceError as error:
            log.warning("stop.incomplete", reason=error.detail)


def _told(user: GatewayUser | None) -> str:
    """Who runs the gateway's workers, for people."""
    if user is not None:
        return f"user {user.name!r} (uid {user.uid})"
    if os.geteuid() == 0:
        return "root, like the control plane: set gateway.user to a user of their own"
    return f"the control plane's user (uid {os.geteuid()})"
