"""That a service which sleeps is asked for: one small file per service, from the workers to the control plane.

`gateway/demand/<service id>.json` is replaced as a whole, so any number of workers may write it, at any time and
again after a restart, and there are at most as many files as services. It lasts until the control plane clears it. What
is not cleared in order is at worst a service that is woken for nobody.

Nothing is synced to the disk: after a power failure nobody waits any more.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

_SUFFIX: Final = ".json"


class Demand(msgspec.Struct, frozen=True):
    """`at`: Unix seconds at which a worker wrote it."""

    service_id: str
    at: float


_decode = msgspec.json.Decoder(Demand).decode
_encode = msgspec.json.Encoder().encode


def demand_directory(home: Path) -> Path:
    return home / "gateway" / "demand"


def write_demand(directory: Path, demand: Demand) -> None:
    """`OSError` if it cannot be written."""
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / f".{demand.service_id}.{os.getpid()}"
    unfinished.write_bytes(_encode(demand))
    unfinished.replace(_path(directory, demand.service_id))


def is_demanded(directory: Path, service_id: str) -> bool:
    return _path(directory, service_id).exists()


def read_demands(directory: Path) -> dict[str, Demand]:
    """All that are pending, by service. A file that is no demand is left out."""
    found = {}
    for path in directory.glob(f"*{_SUFFIX}"):
        demand = _read(path)
        if demand is not None and path == _path(directory, demand.service_id):
            found[demand.service_id] = demand
    return found


def clear_demand(directory: Path, demand: Demand) -> None:
    """Remove a demand that was dealt with; one that is newer stays. Idempotent.

    A demand that is written between the look and the removal goes with it; its worker writes it again for as long as
    somebody waits.
    """
    path = _path(directory, demand.service_id)
    if _read(path) == demand:
        path.unlink(missing_ok=True)


def forget_demand(directory: Path, service_id: str) -> None:
    """Remove whatever is asked of this service. Idempotent."""
    _path(directory, service_id).unlink(missing_ok=True)


def _read(path: Path) -> Demand | None:
    try:
        return _decode(path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):  # cleared meanwhile, or a stranger's
        return None


def _path(directory: Path, service_id: str) -> Path:
    return directory / f"{service_id}{_SUFFIX}"
