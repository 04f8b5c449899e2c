"""The command: runs, and prints a table or JSON."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.launch import resting, starting
from tests.support import light
from tests.support.appliance import Tenant, running
from tests.support.docker import VARIABLE
from tests.support.waiting import eventually

_MIB: Final = 1024 * 1024
_GOAL_S: Final = 1.0
_READY_GOAL_S: Final = 3.0
_MEMORY_GOALS: Final = {"control plane": 160 * _MIB, "gateway worker": 70 * _MIB}


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    result: dict[str, Any] = {"cpus": os.cpu_count(), "load_before": os.getloadavg()[0], "launchers": {}}
    for launcher, environ in _launchers(options.docker_host).items():
        with running(**environ) as appliance:
            tenant = Tenant.create(appliance)
            tenant.publish("first")
            url = tenant.until("first", "ready")["url"]
            key = tenant.known_key(url)
            starts = [starting.measure(appliance, tenant, key) for _ in range(options.runs)]
            result["launchers"][launcher] = starts
            if launcher == "process":
                tenant.client.delete("services/first")
                eventually(lambda: appliance.engines() == 0, 30)
                result["ready_s"] = [resting.seconds_to_ready(appliance) for _ in range(options.runs)]
                result["resident_bytes"] = resting.resident_bytes(appliance)
    result["load_after"] = os.getloadavg()[0]
    print(json.dumps(result, indent=2) if options.json else _report(result))
    return 0


def _launchers(docker_host: str | None) -> dict[str, Mapping[str, str]]:
    launchers: dict[str, Mapping[str, str]] = {"process": {}}
    if docker_host:
        light.build_light_image(docker_host)
        launchers["docker"] = {"APPLIANCE_LAUNCHER": "docker", "APPLIANCE_DOCKER__HOST": docker_host}
    return launchers


def _report(result: Mapping[str, Any]) -> str:
    lines = [f"{result['cpus']} CPUs, load {result['load_before']:.1f} before and {result['load_after']:.1f} after"]
    for launcher, starts in result["launchers"].items():
        lines += ["", f"{launcher} launcher: a service's start, median of {len(starts)} (seconds)"]
        for phase in starts[0]:
            mark = "" if phase in starting.OURS else "   (the engine's own)"
            lines.append(f"  {phase:<24}{_median(starts, [phase]):8.3f}{mark}")
        ours = _median(starts, starting.OURS)
        lines.append(f"  {'all that is ours':<24}{ours:8.3f}   goal: at most {_GOAL_S:.1f}{_missed(ours, _GOAL_S)}")
    ready = statistics.median(result["ready_s"])
    told = f"   goal: at most {_READY_GOAL_S:.1f}{_missed(ready, _READY_GOAL_S)}"
    lines += ["", f"control plane ready after {ready:.2f} s, median of {len(result['ready_s'])}{told}"]
    lines += ["", "resident memory, idle (MiB)"]
    for name, size in result["resident_bytes"].items():
        goal = next((goal for prefix, goal in _MEMORY_GOALS.items() if name.startswith(prefix)), None)
        told = "" if goal is None else f"   goal: at most {goal // _MIB}{_missed(size, goal)}"
        lines.append(f"  {name:<24}{size / _MIB:8.1f}{told}")
    return "\n".join(lines)


def _median(starts: Sequence[Mapping[str, float]], phases: Sequence[str]) -> float:
    """Of the sums over these phases: the sum of medians is nobody's start."""
    return statistics.median(sum(start[phase] for phase in phases) for start in starts)


def _missed(value: float, goal: float) -> str:
    return "   MISSED" if value > goal else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.launch", description=__doc__)
    parser.add_argument("--docker-host", default=os.environ.get(VARIABLE), help=f"default: ${VARIABLE}")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
