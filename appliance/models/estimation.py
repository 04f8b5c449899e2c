"""A version's memory estimate: what `gpu.estimate` needs, read from the version's own files.

Reads the headers of every safetensors file, which takes a second for the largest models: call it in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import structs

from appliance.models.contents import JsonRefused, read_json
from appliance.models.safetensors import SafetensorsInvalid, read_header
from appliance.models.schemas import MemoryEstimate
from gpu.estimate.compatibility import refusal
from gpu.estimate.errors import EstimateImpossible
from gpu.estimate.estimate import Workload, estimate
from gpu.estimate.weights import TensorFact
from gpu.queries import DeviceKind
from gpu.states import Vendor


def estimate_version(folder: Path, workload: Workload, kinds: Iterable[DeviceKind]) -> MemoryEstimate:
    """Of the version whose files lie in `folder`, with those of the devices that cannot run it; raises
    `EstimateImpossible`.
    """
    config = read_config(folder)
    tensors = list(_tensors(folder)) if workload.weight_bytes is None else []
    refused = {
        kind.model: reason
        for kind in kinds
        if kind.vendor is Vendor.nvidia and (reason := refusal(config, kind.compute_capability)) is not None
    }
    return MemoryEstimate(**structs.asdict(estimate(config, tensors, workload)), refused_devices=refused)


def read_config(folder: Path) -> Mapping[str, Any]:
    """config.json, empty where there is none: then the estimate says what it lacks."""
    try:
        value = read_json(folder / "config.json")
    except FileNotFoundError:
        return {}
    except JsonRefused as error:
        raise EstimateImpossible(f"config.json: {error}") from error
    return value if isinstance(value, dict) else {}


def _tensors(folder: Path) -> Iterator[TensorFact]:
    for file in sorted(folder.rglob("*.safetensors")):
        try:
            with file.open("rb") as opened:
                header = read_header(opened, file.stat().st_size)
        except SafetensorsInvalid as error:
            raise EstimateImpossible(f"{file.name}: {error}; give weight_bytes") from error
        for name, tensor in header.tensors.items():
            yield TensorFact(name, tensor.shape, tensor.end - tensor.begin)
