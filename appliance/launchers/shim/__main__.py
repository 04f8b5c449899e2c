"""Entry of the shim: makes the package importable and runs it."""

import sys

sys.path.insert(0, __file__.rsplit("/", 4)[0])

from appliance.launchers.shim.main import main

main(sys.argv[1], int(sys.argv[2]))
