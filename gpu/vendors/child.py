"""The process that asks one vendor's driver: `python -m gpu.vendors.child VENDOR [ROOT]`.

A driver may hang in a system call that no signal ends; who asks it must be a process that nobody needs. For each line
on its standard input it writes one reading as a line of JSON. It ends with its input, after an answer that is an error
(the next one begins anew), and by the alarm should a driver take for ever and nobody be left to end it.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import msgspec

from gpu.states import Vendor
from gpu.vendors.driver import open_driver
from gpu.vendors.readings import Reading

LONGEST_READING_S = 120


def main(arguments: list[str]) -> int:
    vendor = Vendor(arguments[0])
    driver = open_driver(vendor, Path(arguments[1]) if len(arguments) > 1 else Path("/"))
    for _ in sys.stdin.buffer:
        signal.alarm(LONGEST_READING_S)
        try:
            reading = driver.read()
        except Exception as error:  # noqa: BLE001 - the boundary of this process; who asked is told
            reading = Reading(vendor=vendor, error=f"{type(error).__name__}: {error}")
        signal.alarm(0)
        sys.stdout.buffer.write(msgspec.json.encode(reading) + b"\n")
        sys.stdout.buffer.flush()
        if reading.error is not None:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
