"""From the shim to the engine: fork, give up everything that is the shim's, exec."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress

from appliance.launchers.shim.cgroups import Groups

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# The engine is a better victim than the control plane or the database when the whole machine runs out of memory.
_OOM_SCORE_ADJUSTMENT = b"500"
_libc = ctypes.CDLL(None, use_errno=True)


class EngineRefused(Exception):
    """The program could not be run; the message is for a person."""


def adopt_orphans() -> None:
    """Become the parent of whatever the engine's processes leave behind (PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def spawn(argv: list[str], env: dict[str, str], *, cwd: str, output: int, groups: Groups) -> int:
    """The engine's pid, once it has passed `exec`. Raises `EngineRefused`.

    The engine leads a session of its own, and the kernel kills it when the shim dies.
    """
    parent = os.getpid()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _leave_the_shim(parent, groups)
            os.chdir(cwd)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.execvpe(argv[0], argv, env)  # noqa: S606 - no shell is the point
        except OSError as error:
            os.write(tell, f"{argv[0]}: {error.strerror}".encode())
        finally:
            os._exit(127)
    os.close(tell)
    refusal = _read_all(told)
    os.close(told)
    if refusal:
        os.waitpid(pid, 0)
        raise EngineRefused(refusal)
    return pid


def _leave_the_shim(parent: int, groups: Groups) -> None:
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # The shim died before the line above took effect.
        os._exit(127)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # A core dump would put the weights of an encrypted model on a disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        adjustment = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(adjustment, _OOM_SCORE_ADJUSTMENT)
        os.close(adjustment)
    groups.join()


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _read_all(descriptor: int) -> str:
    data = b""
    while chunk := os.read(descriptor, 4096):
        data += chunk
    return data.decode(errors="replace")
