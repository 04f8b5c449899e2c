"""The least memory that an engine takes of each of its devices. Pure; sizes are bytes.

Tensor parallelism splits the weights evenly; besides its share each device holds the driver's context, activations
and a cache of keys and values that is worth having. This is a lower bound, so that what it refuses cannot run.
"""

from __future__ import annotations

from typing import Final

OVERHEAD_BYTES: Final = 1024**3


def device_memory(weight_bytes: int, devices: int) -> int:
    """What each of `devices` must have; 0 without devices, and where the weights' size is not known."""
    if devices == 0 or weight_bytes == 0:
        return 0
    return -(-weight_bytes // devices) + OVERHEAD_BYTES
