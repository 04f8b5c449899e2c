"""How many of the interpreter's instructions a step takes, by function: a figure that other work does not move.

Only the steps within Python are counted, not what happens in C between them; and tracing makes time pass, so what is
done once in so many milliseconds is counted more often than it happens.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

Place = tuple[str, str]
"""File and qualified name of a function."""


def counted(step: Callable[[], int]) -> tuple[int, Counter[Place], Counter[Place]]:
    """What `step` returns, and opcodes and calls by function."""
    opcodes: Counter[Place] = Counter()
    calls: Counter[Place] = Counter()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        place = (Path(frame.f_code.co_filename).name, frame.f_code.co_qualname)
        if event == "call":
            calls[place] += 1
        elif event == "opcode":
            opcodes[place] += 1
        return trace

    sys.settrace(trace)
    try:
        items = step()
    finally:
        sys.settrace(None)
    return items, opcodes, calls


def table(step: Callable[[], int], rows: int = 40) -> str:
    """Per item of the step, the largest first."""
    items, opcodes, calls = counted(step)
    lines = [f"{sum(opcodes.values()) / items:8.0f} opcodes in {sum(calls.values()) / items:.0f} functions"]
    lines += [
        f"{count / items:8.1f} {calls[file, name] / items:6.1f}  {file} {name}"
        for (file, name), count in opcodes.most_common(rows)
    ]
    return "\n".join(lines)
