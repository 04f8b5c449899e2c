"""Programs that the control plane runs: their lines, their failure, and their end with everything below them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from appliance.kernel.children import ChildFailed, run_child
from tests.support.processes import ProcessTable
from tests.support.waiting import eventually

FAMILY = "sleep 600 & (trap '' TERM INT; sleep 600) & echo up; wait"


async def run(script: str, folder: Path) -> list[str]:
    lines: list[str] = []
    await run_child(["sh", "-c", script], cwd=folder, environ={"PATH": os.environ["PATH"]}, on_line=lines.append)
    return lines


async def test_lines_of_both_outputs_are_told(tmp_path: Path) -> None:
    assert await run("echo one; echo two >&2; pwd", tmp_path) == ["one", "two", str(tmp_path)]


async def test_a_failure_ends_with_the_last_words(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match=r"ended with status 3:\n(?s:.*)words"):
        await run("echo last words; exit 3", tmp_path)


async def test_nothing_outlives_a_cancelled_program(tmp_path: Path) -> None:
    is_up = asyncio.Event()
    environ = {"PATH": os.environ["PATH"], "CHILD": str(tmp_path)}
    task = asyncio.create_task(
        run_child(["sh", "-c", FAMILY], cwd=tmp_path, environ=environ, on_line=lambda _: is_up.set())
    )
    await is_up.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    def left() -> list[str]:
        return [p.command_line for p in ProcessTable.snapshot() if p.environ.get("CHILD") == str(tmp_path)]

    eventually(lambda: not left(), message="the whole family is gone")
