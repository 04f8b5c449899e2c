"""What one replica needs of each of its devices: estimated from the model's files for the workload of its arguments.

Computed once, at publishing, and kept with the deployment. The longest context is that of the engine's argument, else
the model's own; the number of sequences is that of the argument, else one, which is what an engine needs to start. It
fails closed: what cannot be estimated asks for `device_memory_bytes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Final, Literal

from msgspec import Struct

from appliance.kernel.errors import FieldError
from appliance.runtimes import arguments
from appliance.runtimes.errors import ArgumentRefused, CombinationRefused
from appliance.runtimes.spec import RuntimeSpec
from gpu.estimate.cache import BLOCK_TOKENS
from gpu.estimate.correction import NONE, Correction, corrected
from gpu.estimate.errors import EstimateImpossible
from gpu.estimate.estimate import Estimate, Workload, check_split, estimate
from gpu.estimate.facts import ModelFacts
from gpu.estimate.weights import weights_per_rank
from gpu.states import WHOLE

_CPU_BLOCK_TOKENS: Final = 128
"""vLLM's own choice on CPUs."""
_MOST_MEMORY: Final = 1 << 48
"""Of one device; so that what a tenant's replicas come to stays a number that databases hold."""
_WIDE: Final = frozenset({"float", "float32"})
_ASK: Final = "or publish with device_memory_bytes: what each device must have"


class Needs(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of each device of one replica, in bytes. `device_memory_bytes` is what a device must have: `given` by a person,
    or the corrected estimate's total by the `share` of a device that the engine takes; 0 without devices.

    `reason` is why the flavor was chosen. Without devices what cannot be estimated is `unknown`, for the `problem`.
    `estimated` is before the correction. `quantisation` is of the model's `quantization_config` what devices are asked
    for.
    """

    source: Literal["estimate", "given", "unknown"]
    reason: str = ""
    problem: str | None = None
    device_memory_bytes: int
    devices: int
    context: int | None = None
    concurrency: int | None = None
    share: float = 1.0
    cache_is_given: bool = False
    estimated: Estimate | None = None
    correction: Correction = NONE
    quantisation: dict[str, str] = {}

    @property
    def breakdown(self) -> Estimate | None:
        """The estimate as it counts."""
        if self.estimated is None:
            return None
        return corrected(self.estimated, self.correction, cache_is_given=self.cache_is_given)


class Asked(Struct, frozen=True, kw_only=True):
    """What is published, as far as memory depends on it. `args` as `check_args` gives them."""

    runtime: RuntimeSpec
    args: tuple[str, ...]
    devices: int
    device_share: int = WHOLE
    device_memory_bytes: int | None = None


def needs(asked: Asked, facts: ModelFacts, correction: Correction) -> Needs:
    """Raises `EstimateImpossible`, also for a number of devices that the model is not split over, and
    `ArgumentRefused`.
    """
    ranks, groups = split(asked)
    share = _share(asked)
    _check_sharing(asked, is_estimated=asked.device_memory_bytes is None)
    quantisation = dict(facts.config.get("quantization_config", {}))
    if asked.devices and asked.device_memory_bytes is not None:
        if facts.shape is not None:
            check_split(facts.shape, Workload(context=1, ranks=ranks, groups=groups))
        weights = _least_weights(asked, facts, ranks, groups)
        cache = _cache_bytes(asked, groups) or 0
        _check_given(asked.device_memory_bytes, weights + cache)
        return Needs(
            source="given",
            device_memory_bytes=asked.device_memory_bytes,
            devices=asked.devices,
            quantisation=quantisation,
        )
    try:
        if facts.problem is not None:
            raise EstimateImpossible(facts.problem)  # noqa: TRY301 - with the same addition as the estimate's own
        workload = workload_of(asked, facts)
        estimated = estimate(facts, workload)
    except EstimateImpossible as error:
        if not asked.devices:
            return Needs(source="unknown", device_memory_bytes=0, devices=0, problem=error.detail)
        raise EstimateImpossible(f"{error.detail}; {_ASK}") from error
    cache_is_given = workload.kv_cache_bytes is not None
    counted = corrected(estimated, correction, cache_is_given=cache_is_given)
    device_memory = ceil(counted.total_bytes / share) if asked.devices else 0
    if device_memory > _MOST_MEMORY:
        raise EstimateImpossible(f"{device_memory} bytes of each device are more than any has; ask for less context")
    return Needs(
        source="estimate",
        device_memory_bytes=device_memory,
        devices=asked.devices,
        context=workload.context,
        concurrency=workload.concurrency,
        share=share,
        cache_is_given=cache_is_given,
        estimated=estimated,
        correction=correction,
        quantisation=quantisation,
    )


def split(asked: Asked) -> tuple[int, int]:
    """Over how many devices each layer is split, and to how many the layers are dealt; raises `ArgumentRefused`."""
    sizing = asked.runtime.sizing
    if sizing.split_argument is None:
        return 1, max(asked.devices, 1)
    args = arguments.with_devices(asked.runtime, asked.args, asked.devices)
    ranks = arguments.number_in(args, sizing.split_argument) or 1
    groups = arguments.number_in(args, sizing.groups_argument) or 1
    if ranks * groups > max(asked.devices, 1):
        wrong = f"{ranks * groups} devices are asked for by the arguments, and the flavor has {asked.devices}"
        raise ArgumentRefused(wrong, errors=[FieldError("/args", wrong)])
    return ranks, groups


def workload_of(asked: Asked, facts: ModelFacts) -> Workload:
    """The workload that the arguments ask for; raises `EstimateImpossible`, `ArgumentRefused`."""
    runtime, sizing, args = asked.runtime, asked.runtime.sizing, asked.args
    ranks, groups = split(asked)
    given = arguments.number_in(args, runtime.concurrency_argument)
    context = arguments.number_in(args, runtime.context_argument) or facts.known_shape().positions
    if context is None:
        setting = f"set {runtime.context_argument}" if runtime.context_argument else "choose another runtime"
        raise EstimateImpossible(f"config.json does not tell the longest context; {setting}")
    number_bytes = _number_bytes(asked, facts)
    return Workload(
        context=context,
        concurrency=given or 1,
        ranks=ranks,
        groups=groups,
        step_tokens=arguments.number_in(args, sizing.step_argument),
        most_sequences=None if given is not None else runtime.max_in_flight,
        block_tokens=arguments.number_in(args, sizing.block_argument) or _block_tokens(asked),
        kv_cache_bytes=_cache_bytes(asked, groups),
        kv_element_bytes=_element_bytes(asked, number_bytes),
        number_bytes=number_bytes,
        has_graphs=bool(asked.devices) and sizing.has_graphs and not _has(args, sizing.eager_argument),
    )


def _cache_bytes(asked: Asked, groups: int) -> int | None:
    """What the engine is told to take of each device for its cache, where it is told."""
    cache = arguments.number_in(asked.args, asked.runtime.sizing.cache_argument)
    if cache is not None and asked.runtime.sizing.split_argument is None:
        return -(-cache // groups)  # such an engine takes it of all its devices together
    return cache


def _block_tokens(asked: Asked) -> int:
    return BLOCK_TOKENS if asked.devices else _CPU_BLOCK_TOKENS


def _element_bytes(asked: Asked, number_bytes: int) -> int:
    sizing = asked.runtime.sizing
    chosen = arguments.text_in(asked.args, sizing.cache_type_argument) if sizing.cache_type_argument else None
    if chosen is not None and chosen.startswith("fp8"):
        return 1
    return number_bytes if chosen in (None, "auto") else 2


def _number_bytes(asked: Asked, facts: ModelFacts) -> int:
    """Of one number that the engine computes in: as it is told, else the model's own, or half of that."""
    sizing = asked.runtime.sizing
    told = arguments.text_in(asked.args, sizing.dtype_argument) if sizing.dtype_argument else None
    if told not in (None, "auto"):
        return 4 if told in _WIDE else 2
    return facts.number_bytes if sizing.auto_dtype == "model" else 2


def _share(asked: Asked) -> float:
    """The part of what the replica gets of a device that the engine takes; raises `ArgumentRefused` for more than
    that.
    """
    sizing = asked.runtime.sizing
    given = arguments.text_in(asked.args, sizing.share_argument) if sizing.share_argument else None
    if given is None:
        return sizing.share
    share = float(given) * WHOLE / asked.device_share
    if share > 1:
        wrong = (
            f"{sizing.share_argument} can be {asked.device_share / WHOLE:g} at most: the flavor has so much of a device"
        )
        raise ArgumentRefused(wrong, errors=[FieldError("/args", wrong)])
    return share


def _check_sharing(asked: Asked, is_estimated: bool) -> None:  # noqa: FBT001 - whether there is an estimate
    """Raise where the engine could not be kept within its share of a device: it would take what others were
    promised.
    """
    runtime, sizing = asked.runtime, asked.runtime.sizing
    if asked.device_share == WHOLE:
        return
    if sizing.share_argument is not None:
        if arguments.text_in(asked.args, sizing.cache_argument or "") is not None:
            wrong = f"{sizing.cache_argument} would take more than the share; leave it out on a share of a device"
            raise ArgumentRefused(wrong, errors=[FieldError("/args", wrong)])
        return
    if sizing.cache_argument is None:
        raise CombinationRefused(f"the {runtime.name} runtime cannot share a device; choose a flavor with whole ones")
    if not is_estimated and arguments.number_in(asked.args, sizing.cache_argument) is None:
        wrong = f"on a share of a device the {runtime.name} runtime needs {sizing.cache_argument}"
        raise ArgumentRefused(wrong, errors=[FieldError("/args", wrong)])


def _least_weights(asked: Asked, facts: ModelFacts, ranks: int, groups: int) -> int:
    if not facts.weights.tensors:
        return 0
    number_bytes = _number_bytes(asked, facts)
    return weights_per_rank(facts.weights, facts.shape, ranks, groups, number_bytes=number_bytes)


def _has(args: Sequence[str], flag: str | None) -> bool:
    return flag is not None and flag in args


def _check_given(device_memory_bytes: int, least: int) -> None:
    """Whatever else is not known, there has to be room for the weights, and for the cache where that was given."""
    if device_memory_bytes < least:
        wrong = (
            f"the weights and the cache alone take {least} bytes of each device; give more, or leave it out for the "
            "estimate"
        )
        raise ArgumentRefused(wrong, errors=[FieldError("/device_memory_bytes", wrong)])
