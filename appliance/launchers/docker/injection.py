"""How NVIDIA devices get into a container: by CDI where the daemon has it for them, else by NVIDIA's own driver of
device requests (`docker run --gpus device=UUID`). Both name the replica's devices alone, by UUID.

Either way the host's NVIDIA container toolkit runs hooks as root in the making of a container. Up to 1.17.7 an image
could escape through them (CVE-2025-23266), so an older one is refused, and so is one whose version cannot be found:
what is not known to be safe is not run. Iluvatar's devices are passed on as nodes and need no toolkit.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from appliance.launchers.errors import StartRefused

CDI_KIND: Final = "nvidia.com/gpu"
FIRST_SAFE_TOOLKIT: Final = (1, 17, 8)
_VERSION: Final = re.compile(r"\bversion:?\s+v?(\d{1,4})\.(\d{1,4})\.(\d{1,6})(-\S+)?", re.IGNORECASE)
_ASKED: Final = ("nvidia-ctk", "nvidia-container-runtime")
_DEADLINE_S: Final = 5.0
_LARGEST_SPEC: Final = 4 << 20


class Injection(StrEnum):
    cdi = "cdi"
    driver = "driver"


def choose(info: Mapping[str, Any], uuids: Sequence[str]) -> Injection:
    """By the daemon's `GET /info`: CDI where it knows each of the devices under the name `nvidia.com/gpu=<UUID>`.

    Daemons from 28.2 tell the devices that they found; those from 25 only the folders of specifications, which lie on
    this machine and are looked into. Earlier ones, and those with CDI switched off, tell neither.
    """
    found = {device.get("ID") for device in info.get("DiscoveredDevices") or () if device.get("Source") == "cdi"}
    if found:
        return Injection.cdi if found.issuperset(map(cdi_name, uuids)) else Injection.driver
    text = "\n".join(_specifications(info.get("CDISpecDirs") or ()))
    names = set(re.findall(r"""["']?name["']?\s*:\s*["']?([\w-]+)""", text))
    return Injection.cdi if names.issuperset(uuids) else Injection.driver


def cdi_name(uuid: str) -> str:
    return f"{CDI_KIND}={uuid}"


def check_toolkit(*, path: str | None = None) -> None:
    """Raise `StartRefused` unless the host's toolkit is one without the escape; blocks for up to some seconds."""
    found = toolkit_version(path=path)
    needed = ".".join(map(str, FIRST_SAFE_TOOLKIT))
    remedy = f"install {needed} or later, or set docker.allow_old_toolkit to run it all the same"
    if found is None:
        raise StartRefused(
            f"The version of the NVIDIA container toolkit cannot be found ({' or '.join(_ASKED)} --version), so it may "
            f"be one that images escape from (CVE-2025-23266); {remedy}."
        )
    if found < FIRST_SAFE_TOOLKIT:
        version = ".".join(map(str, found))
        raise StartRefused(f"Images can escape from the NVIDIA container toolkit {version} (CVE-2025-23266); {remedy}.")


def toolkit_version(*, path: str | None = None) -> tuple[int, int, int] | None:
    """As the toolkit's own programs on this machine tell it; `path` is searched in place of `PATH`. A release candidate
    counts as the version before.
    """
    for name in _ASKED:
        program = shutil.which(name, path=path)
        if program is None:
            continue
        try:
            told = subprocess.run(  # noqa: S603 - a name of ours, found by the search path of whoever runs us
                [program, "--version"], capture_output=True, timeout=_DEADLINE_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            continue  # as good as absent: the other one may tell
        if (match := _VERSION.search(told.stdout.decode("utf-8", "replace"))) is not None:
            major, minor, patch = (int(part) for part in match.groups()[:3])
            return (major, minor, patch - 1) if match[4] else (major, minor, patch)
    return None


def _specifications(folders: Sequence[str]) -> list[str]:
    """The texts of the CDI specifications of NVIDIA's devices; what cannot be read is not there."""
    texts = []
    for folder in map(Path, folders):
        for file in sorted([*folder.glob("*.json"), *folder.glob("*.yaml")]) if folder.is_dir() else ():
            try:
                with file.open(encoding="utf-8", errors="replace") as opened:
                    text = opened.read(_LARGEST_SPEC)
            except OSError:
                continue
            if CDI_KIND in text:
                texts.append(text)
    return texts
