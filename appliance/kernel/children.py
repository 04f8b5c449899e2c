"""Programs that the control plane runs to their end: in a group of their own, killed with everything below them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from appliance.kernel.errors import ApplianceError

_LAST_LINES: Final = 15
_LONGEST_LINE: Final = 1 << 20


class ChildFailed(ApplianceError):
    code = "child-failed"
    title = "A program that the appliance started has failed"


async def run_child(
    argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str], on_line: Callable[[str], None]
) -> None:
    """Run `argv` and hand each line it writes to `on_line`; raises `ChildFailed` with its last lines."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        env=dict(environ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        limit=_LONGEST_LINE,
    )
    assert process.stdout is not None  # noqa: S101 - asked for above
    lines: list[str] = []
    try:
        async for raw in process.stdout:
            line = raw.decode("utf-8", "replace").rstrip()
            lines = [*lines[1 - _LAST_LINES :], line]
            on_line(line)
        code = await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if code:
        raise ChildFailed(f"`{' '.join(argv)}` ended with status {code}:\n" + "\n".join(lines))
