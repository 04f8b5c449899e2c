"""What a replica takes of its devices, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from appliance.cli.sizes import readable

_PARTS: Final = ("weights", "kv_cache", "activations", "graphs", "runtime")


def memory_sentence(memory: Mapping[str, Any] | None) -> str:
    """`18.3 GiB of each device: weights 12.5 GiB, ...`; what the API calls `memory` of a deployment or plan."""
    if memory is None:
        return "unknown"
    breakdown = memory["breakdown"]
    if breakdown is None:
        given = f"{readable(memory['device_memory_bytes'])} of each device, as given"
        return given if memory["source"] == "given" else f"unknown: {memory['problem']}"
    parts = ", ".join(f"{part.replace('_', ' ')} {readable(breakdown[f'{part}_bytes'])}" for part in _PARTS)
    whose = f"{readable(memory['device_memory_bytes'])} of each device" if memory["devices"] else "no device"
    share = f", of which the engine takes {memory['share']:.0%}" if memory["devices"] and memory["share"] < 1 else ""
    return f"{whose}{share}: {parts}; for {memory['concurrency']} x {memory['context']} tokens"
