"""Phases of the start, one JSON object a line on standard error, for whoever launched the process.

`appliance-phase {"phase": "loading_weights", "done_bytes": 1048576, "total_bytes": 5478968}`

Phases in order: `importing`, `loading_weights` (repeated as it goes on), `warming_up`, `ready`; `failed` with a
`reason` at any point.
"""

from __future__ import annotations

import json
import sys
from typing import Literal

Phase = Literal["importing", "loading_weights", "warming_up", "ready", "failed"]


def report(phase: Phase, **fields: int | str) -> None:
    sys.stderr.write(f"appliance-phase {json.dumps({'phase': phase, **fields})}\n")
    sys.stderr.flush()
