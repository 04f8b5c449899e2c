"""The demo: a tiny model that is trained here once, published as service `chat` of tenant `demo`.

Each step looks first whether it was done, so that a second start takes seconds and one that was cut goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from appliance.app.banner import say
from appliance.app.build import Built
from appliance.app.demo_objects import MEMBER, RUNTIME, SERVICE, DemoFailed, DemoObjects
from appliance.app.home import Home
from appliance.kernel.children import run_child
from appliance.kernel.ids import TenantId
from appliance.kernel.logging import get_logger
from appliance.kernel.resources import resource
from appliance.kernel.settings import Settings
from appliance.runtimes import building
from appliance.services.states import Desired, ServiceState

log = get_logger(__name__)
QUESTION: Final = "What is a compute pool?"
_PAUSE_S: Final = 0.1


class Demo:
    """`run` is a task of the composition root; it ends when the service answers, or says what failed."""

    def __init__(self, settings: Settings, home: Home, built: Built, objects: DemoObjects) -> None:
        self._settings, self._home, self._built, self._objects = settings, home, built, objects
        self._began = built.machinery.clock.now()  # a failure from before this start is no failure of it

    async def run(self) -> None:
        try:
            await self._set_up()
        except Exception as error:  # the boundary of a background task, which nobody else would hear of
            log.exception("demo.failed")
            say(f"the demo could not be set up: {error}", "everything else runs; start again to try once more")

    async def _set_up(self) -> None:
        await self._prepare_engine()
        tenant_id, password = await self._objects.ensure_tenant(self._settings.limits)
        if password is not None:
            say(f"  tenant demo     {MEMBER} / {password}   (shown once; to be changed at the first sign-in)")
        await self._objects.ensure_key(tenant_id, self._key_file)
        if await self._objects.order_model(tenant_id, self._model_folder):
            await self._until(lambda: self._objects.has_model(tenant_id))
        await self._objects.ensure_service(tenant_id)
        await self._until(lambda: self._settled(tenant_id))
        await self._show(tenant_id)

    @property
    def _model_folder(self) -> Path:
        return self._home.path / "demo-model"

    @property
    def _key_file(self) -> Path:
        return self._home.path / "demo.key"

    async def _prepare_engine(self) -> None:
        trained = self._model_folder.exists()
        if self._built.launcher.name != "process" and trained:
            return
        runtime = self._built.parts.catalog.get(RUNTIME)
        python = await building.ensure(runtime, self._built.machinery.environments, say)
        if not trained:
            await self._train(python)

    async def _train(self, python: Path) -> None:
        say("training the demo model (once, one to two minutes on two cores) ...")
        environ = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        await run_child(
            [str(python), "train.py", "--out", str(self._model_folder)],
            cwd=resource("images/demo-model"),
            # Threads that wait must not spin: on a busy machine that makes minutes of one.
            environ=environ | {"HOME": str(self._home.path), "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"},
            on_line=_tell_progress,
        )

    async def _until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        while not await condition():  # noqa: ASYNC110 - the condition is in the database
            await asyncio.sleep(_PAUSE_S)

    async def _settled(self, tenant_id: TenantId) -> bool:
        """Whether the service is ready, or is not meant to be; raises once its start has failed."""
        found = await self._objects.service(tenant_id)
        if found is None or found[0].desired != Desired.running:
            return True
        if found[0].state == ServiceState.failed and found[0].state_since >= self._began:
            raise DemoFailed(f"service {SERVICE!r} failed: {found[0].reason}")
        return found[0].state == ServiceState.ready

    async def _show(self, tenant_id: TenantId) -> None:
        found = await self._objects.service(tenant_id)
        if found is None or found[0].state != ServiceState.ready:
            say(f"the demo service {SERVICE!r} is not running, as it was left")
            return
        body = json.dumps({"model": SERVICE, "messages": [{"role": "user", "content": QUESTION}]})
        tls, names = self._settings.gateway.tls, self._settings.hostnames
        base = f"{'https' if tls else 'http'}://{names[0] if names else '127.0.0.1'}:{found[1]}/v1"
        trust = f" --cacert {self._home.path / 'ca.pem'}" if tls else ""
        say(
            f"the demo model answers at {base}; try it:",
            "",
            f"curl -s{trust} {base}/chat/completions -H 'Content-Type: application/json' \\",
            f'  -H "Authorization: Bearer $(cat {self._key_file})" \\',
            f"  -d '{body}'",
            "",
        )


def _tell_progress(line: str) -> None:
    _, mark, text = line.partition("appliance-progress ")
    if not mark:
        return
    told = json.loads(text)
    if told["step"] % 50 == 0:
        say(f"  step {told['step']} of {told['of']}, loss {told['loss']:.3f}")
