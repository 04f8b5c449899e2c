"""Phases of vLLM's start, read from its log, one JSON object a line on standard error.

`appliance-phase {"phase": "loading_weights", "done_bytes": 0, "total_bytes": 5478968}`

The same lines as the transformers engine's. A message that a version of vLLM words differently costs that line and
nothing else: whether the engine is ready is decided by asking it.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path


def report(phase: str, **fields: int | str) -> None:
    """Write to the descriptor itself: vLLM prefixes what goes through `sys.stderr` in its processes."""
    os.write(2, f"appliance-phase {json.dumps({'phase': phase, **fields})}\n".encode())


def weight_bytes(model: str) -> int:
    """Size of the weight files in a model folder; 0 if it is none."""
    return sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))


class PhaseHandler(logging.Handler):
    """Named in `logging.json`, which every process of vLLM reads."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._total = 0

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith("Starting to load model "):
            self._total = weight_bytes(message.removeprefix("Starting to load model ").removesuffix("..."))
            report("loading_weights", done_bytes=0, total_bytes=self._total)
        elif message.startswith("Loading weights took"):
            report("loading_weights", done_bytes=self._total, total_bytes=self._total)
            report("warming_up")
        elif message.startswith("Starting vLLM server on"):
            report("ready")
