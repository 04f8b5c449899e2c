"""`python -m tests.gpu.stub KIND FOLDER`: a simulated host to run the appliance with (setting `compute.simulation`)."""

import sys
from pathlib import Path

from tests.gpu.stub.catalog import HOSTS
from tests.gpu.stub.library import install


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in HOSTS:
        print(f"usage: python -m tests.gpu.stub {{{','.join(HOSTS)}}} FOLDER", file=sys.stderr)  # noqa: T201
        return 2
    folder = Path(arguments[1]).absolute()
    HOSTS[arguments[0]]().write(folder)
    install(folder)
    print(f"APPLIANCE_COMPUTE__SIMULATION={folder}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
