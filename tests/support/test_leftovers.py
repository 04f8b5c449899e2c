"""The guard of `.ci/run` against processes that tests leave behind."""

import signal
import subprocess
import sys
from pathlib import Path

LEFTOVERS = Path(__file__).parents[2] / ".ci" / "lib" / "leftovers.py"
GRACE_S = "2"

DAEMON = """
import os, sys
if os.fork():
    os._exit({status})
os.setsid()
os.chdir("/")
os.execve(sys.executable, ["VLLM::EngineCore", "-c", "import signal; signal.pause()"], {{}})
"""
"""As vLLM's workers do, it keeps nothing of its arguments and environment, and has a session of its own."""


def _run(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(LEFTOVERS), GRACE_S, sys.executable, "-c", script]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=60)


def test_a_process_under_another_name_is_found_and_ended():
    done = _run(DAEMON.format(status=0))
    assert done.returncode == 1
    _, _, told = done.stderr.partition("left behind: ")
    pid, program = told.split()[:2]
    assert Path(program) == Path(sys.executable).resolve()
    assert "VLLM::EngineCore" in told
    assert not Path(f"/proc/{pid}").exists()


def test_the_commands_own_failure_comes_first():
    assert _run(DAEMON.format(status=3)).returncode == 3


def test_what_ends_by_itself_is_not_left():
    done = _run("import os, sys\nos.fork() or os.execl('/bin/sleep', 'sleep', '0.3')")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_that_is_killed_has_a_shells_status():
    assert _run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").returncode == 128 + signal.SIGKILL
