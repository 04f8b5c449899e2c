"""`python -m transformers_engine --model DIR --uds PATH`

Exit status: 0 after SIGTERM or SIGINT, 1 when the model cannot be served or the engine failed, 2 for wrong options.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import uvloop

from .options import parse_options
from .phases import report
from .process import Process


def main() -> None:
    options = parse_options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    report("importing")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status = runner.run(Process(options).run())
    # A loader inside an import or a kernel cannot be interrupted; waiting for it, or finalising the interpreter
    # around it, would hang or crash instead of exit.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
