"""Start vLLM's engine process by fork on a CPU too.

vLLM forks its engine process on a GPU but insists on spawning it on a CPU, where the child imports everything again:
8 of 17 seconds. The reason is thread binding, which needs an OpenMP library preloaded in a fresh process; the
appliance runs with `VLLM_CPU_OMP_THREADS_BIND=nobind`. What makes a fork unsafe is threads that hold locks: the only
ones at that point are ZeroMQ's, which vLLM forks beside on a GPU as well, and OpenBLAS's, which the launcher turns
off. OpenMP starts its threads at the first parallel region, which the parent never enters.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.context import BaseContext

from vllm.platforms import current_platform
from vllm.utils.system_utils import get_mp_context
from vllm.v1.engine import utils


def fork_engine_on_cpu() -> None:
    """Replace the choice of start method where the engine process is made; no effect on other platforms."""
    if not current_platform.is_cpu() or os.environ.get("VLLM_CPU_OMP_THREADS_BIND") != "nobind":
        return

    def context() -> BaseContext:
        if threading.active_count() == 1:
            return multiprocessing.get_context("fork")
        method: BaseContext = get_mp_context()
        return method

    vars(utils)["get_mp_context"] = context
