"""What a version's files tell of its memory: `gpu.estimate` needs the configuration and the tensors of the headers.

Reading the headers of the largest models takes a second, hence a thread; what a version holds never changes, hence what
is made of it is kept for the last few.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from appliance.models.contents import JsonRefused, read_json
from appliance.models.safetensors import MOST_TENSORS, SafetensorsInvalid, read_header
from appliance.models.schemas import MemoryEstimate
from appliance.models.store import Store
from gpu.estimate.compatibility import refusal
from gpu.estimate.errors import EstimateImpossible
from gpu.estimate.estimate import Workload, estimate
from gpu.estimate.facts import ModelFacts, facts_of
from gpu.estimate.weights import TensorFact
from gpu.snapshot import DeviceKind
from gpu.states import Vendor

_KEPT: Final = 64
"""Versions."""


class FactsReader:
    """Reads the facts of versions in the store, each once as a rule."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[str, ModelFacts] = OrderedDict()

    async def facts(self, version_id: str) -> ModelFacts:
        found = self._kept.get(version_id)
        if found is None:
            found = await asyncio.to_thread(read_facts, self._store.tree(version_id))
        self._kept[version_id] = found
        self._kept.move_to_end(version_id)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return found


def read_facts(folder: Path) -> ModelFacts:
    """Of the version whose files lie in `folder`."""
    try:
        config = read_config(folder)
    except EstimateImpossible as error:
        return ModelFacts(problem=error.detail, unknown_shape=error.detail)
    tensors = _Tensors(folder)
    facts = facts_of(config, tensors)
    return structs.replace(facts, problem=tensors.problem)


def estimate_version(folder: Path, workload: Workload, kinds: Iterable[DeviceKind]) -> MemoryEstimate:
    """Of the version whose files lie in `folder`; raises `EstimateImpossible`."""
    return estimate_facts(read_facts(folder), workload, kinds)


def estimate_facts(facts: ModelFacts, workload: Workload, kinds: Iterable[DeviceKind]) -> MemoryEstimate:
    """With those of the devices that cannot run the model; raises `EstimateImpossible`."""
    if facts.problem is not None and (workload.weight_bytes is None or facts.problem == facts.unknown_shape):
        raise EstimateImpossible(facts.problem)
    told = structs.asdict(estimate(facts, workload))
    return MemoryEstimate(**told, refused_devices=refused_devices(facts.config, kinds))


def refused_devices(config: Mapping[str, Any], kinds: Iterable[DeviceKind]) -> dict[str, str]:
    """By model of device: why it cannot compute in the model's quantisation. Of NVIDIA's alone, which tell what they
    can.
    """
    return {
        kind.model: reason
        for kind in kinds
        if kind.vendor is Vendor.nvidia and (reason := refusal(config, kind.compute_capability)) is not None
    }


def read_config(folder: Path) -> Mapping[str, Any]:
    """config.json, empty where there is none: then the estimate says what it lacks."""
    try:
        value = read_json(folder / "config.json")
    except FileNotFoundError:
        return {}
    except JsonRefused as error:
        raise EstimateImpossible(f"config.json: {error}") from error
    return value if isinstance(value, dict) else {}


class _Tensors:
    """Those of all files, one after another, up to a file that cannot be read: then `problem` says why."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.problem: str | None = None

    def __iter__(self) -> Iterator[TensorFact]:
        count = 0
        for file in sorted(self._folder.rglob("*.safetensors")):
            try:
                with file.open("rb") as opened:
                    header = read_header(opened, file.stat().st_size)
            except SafetensorsInvalid as error:
                self.problem = f"{file.name}: {error}; give weight_bytes"
                return
            count += len(header.tensors)
            if count > MOST_TENSORS:
                self.problem = f"the model has more than {MOST_TENSORS} tensors; give weight_bytes"
                return
            for name, tensor in header.tensors.items():
                yield TensorFact(name, tensor.shape, tensor.end - tensor.begin, tensor.dtype)
