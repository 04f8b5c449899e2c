"""What a tenant is not told of the machine: the host's folders in reasons, last lines and logs of engines.

Kept and logged as they are, and shown so to whoever may read the platform; a tenant sees the same words with the
folders of its replica named from there (`model/config.json`, `run/engine.sock`), and no other.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from appliance.services.schemas import DeploymentView, EventView, ReplicaView, ServiceView

_NAME = r"[^/\s\"']+"
_END = r"(?=[/\s\"',:;)\]]|$)"


class HostPaths:
    """`home` is APPLIANCE_HOME, `environments` the folder of the runtimes' virtual environments, `runtimes` those of
    their own files.
    """

    def __init__(self, home: Path, environments: Path, runtimes: Sequence[Path]) -> None:
        named: list[tuple[str, str]] = []
        for root in _forms(home):
            named += [
                (rf"{root}/run/e/{_NAME}", "run"),
                (rf"{root}/models/versions/{_NAME}", "model"),
                (rf"{root}/cache/{_NAME}/{_NAME}", "cache"),
                (rf"{root}/logs/replicas", "logs"),
            ]
        named += [(rf"{root}/{_NAME}/{_NAME}", "runtime") for root in _forms(environments)]
        named += [(root, "runtime") for folder in runtimes for root in _forms(folder)]
        for prefix in {sys.prefix, sys.base_prefix}:
            named += [(root, "python") for root in _forms(Path(prefix))]
        named += [(root, "appliance") for root in _forms(home)]
        self._names = [name for _, name in named]
        self._pattern = re.compile("|".join(f"({pattern}){_END}" for pattern, _ in named))

    def hide(self, text: str) -> str:
        return self._pattern.sub(lambda found: self._names[(found.lastindex or 1) - 1], text)

    def service(self, view: ServiceView) -> ServiceView:
        deployments = [self._deployment(deployment) for deployment in view.deployments]
        return structs.replace(view, reason=self.hide(view.reason), deployments=deployments)

    def event(self, view: EventView) -> EventView:
        return structs.replace(view, message=self.hide(view.message), detail=self._within(view.detail))

    def _deployment(self, view: DeploymentView) -> DeploymentView:
        return structs.replace(view, current=[self._replica(replica) for replica in view.current])

    def _replica(self, view: ReplicaView) -> ReplicaView:
        return structs.replace(view, reason=self.hide(view.reason), exit=self._within(view.exit))

    def _within(self, value: Any) -> Any:
        """JSON, with every text in it."""
        match value:
            case str():
                return self.hide(value)
            case Mapping():
                return {name: self._within(member) for name, member in value.items()}
            case list():
                return [self._within(member) for member in value]
            case _:
                return value


def _forms(folder: Path) -> list[str]:
    """As it is written and, where a link leads there, as it really is called."""
    return list(dict.fromkeys(re.escape(str(form)) for form in (folder.absolute(), folder.resolve())))
