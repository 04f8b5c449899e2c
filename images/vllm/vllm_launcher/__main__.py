"""`python -m vllm_launcher --model DIR --uds PATH ...`: all arguments are vLLM's own.

Before handing over to vLLM: remove a dead process's socket, which vLLM would not bind over; let owner and group
connect to the new one; report phases; and shorten the start on a CPU.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from pathlib import Path

from .phases import report

SOCKET_UMASK = 0o007
LOGGING_CONFIG = Path(__file__).with_name("logging.json")


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--uds", type=Path)
    options, _ = parser.parse_known_args()
    report("importing")
    if options.uds is not None:
        options.uds.unlink(missing_ok=True)
    os.umask(SOCKET_UMASK)
    os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(LOGGING_CONFIG))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported; see forking.py

    from .cpu import apply_defaults  # noqa: PLC0415 - imports vLLM, after the environment is set
    from .forking import fork_engine_on_cpu  # noqa: PLC0415

    sys.argv[0] = "vllm"
    apply_defaults(sys.argv)
    fork_engine_on_cpu()
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
