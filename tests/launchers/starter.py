"""A control plane in small: starts one replica, or stops and removes it, and may be killed on the way.

Run as `python -m tests.launchers.starter <start|end> <bench as JSON>` with the variables of
`appliance.kernel.crashpoints`.
"""

import asyncio
import json
import sys
from pathlib import Path

from tests.launchers.workbench import Workbench


async def _main(action: str, given: dict[str, str]) -> None:
    bench = Workbench(given["kind"], Path(given["home"]), given["docker_host"], given["appliance_id"])
    launcher = bench.launcher()
    if action == "start":
        await launcher.start(bench.spec(replica_id=given["replica_id"]))
    else:
        await launcher.stop(given["replica_id"], grace_s=5)
        await launcher.remove(given["replica_id"])
    await launcher.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], json.loads(sys.argv[2])))
