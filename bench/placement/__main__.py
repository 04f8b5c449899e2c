"""The command: speed on generated fleets, the exact solver on static instances, other policies online."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from typing import Any, Final

import structlog

from bench.placement import online, speed, static
from bench.placement.environment import with_solver

NODES: Final = (13, 125, 1250)
DECISION_GOAL_MS: Final = 20.0
REPLAN_GOAL_S: Final = 2.0
GAP_GOAL: Final = 3.0


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    result: dict[str, Any] = {"cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    if "speed" in options.only:
        measured = [asyncio.run(speed.measure(nodes, options.decisions)) for nodes in NODES]
        result["speed"] = [row._asdict() for row in measured]
        result["peak_bytes"] = speed.peak_bytes()
    if "static" in options.only:
        with_solver()
        instances = static.compare(options.instances)
        mean, worst = static.gaps(instances)
        proven = sum(one.is_proven for one in instances)
        result["static"] = {"instances": len(instances), "proven": proven, "mean_gap": mean, "worst_gap": worst}
    if "online" in options.only:
        means, pairs = online.compare(options.seeds)
        by_figure = {figure: {name: pair._asdict() for name, pair in by.items()} for figure, by in pairs.items()}
        result["online"] = {"seeds": options.seeds, "means": means, "paired": by_figure}
    print(json.dumps(result, indent=2) if options.json else _report(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.placement", description=__doc__)
    parser.add_argument("--only", type=_parts, default=("speed", "static", "online"), help="parts, separated by commas")
    parser.add_argument("--decisions", type=int, default=1000, help="decisions for each size of fleet [default: 1000]")
    parser.add_argument("--instances", type=int, default=50, help="static instances [default: 50]")
    parser.add_argument("--seeds", type=int, default=200, help="online workloads [default: 200]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if unknown := set(parts) - {"speed", "static", "online"}:
        raise argparse.ArgumentTypeError(f"there is no part {min(unknown)!r}")
    return parts


def _report(result: dict[str, Any]) -> str:
    lines = [f"{result['cpus']} CPUs, load {result['load']:.1f} before"]
    if "speed" in result:
        lines += ["", *_speed(result["speed"]), f"peak memory {result['peak_bytes'] / 2**20:.0f} MiB"]
    if "static" in result:
        found = result["static"]
        gap, worst, missed = found["mean_gap"], found["worst_gap"], _missed(found["mean_gap"], GAP_GOAL)
        lines += ["", f"static, {found['instances']} instances ({found['proven']} proven): {gap:.2f} % less than the"]
        lines += [f"exact solver places on average, {worst:.2f} % at worst; goal: at most {GAP_GOAL:.0f} %{missed}"]
    if "online" in result:
        lines += ["", *_online(result["online"])]
    return "\n".join(lines)


def _speed(rows: list[dict[str, Any]]) -> list[str]:
    lines = [f"{'':<24}" + "".join(f"{row['devices']:>12,}" for row in rows)]
    lines += [f"{name:<24}" + "".join(f"{row[name]:12.2f}" for row in rows) for name in rows[0] if name != "devices"]
    last = rows[-1]
    decided, replanned = last["decision_p99"], last["replan_s"]
    lines += [
        f"one decision, p99: {decided:.1f} ms, goal: at most {DECISION_GOAL_MS:.0f}{_missed(decided, DECISION_GOAL_MS)}"
    ]
    lines += [f"a replan: {replanned:.2f} s, goal: at most {REPLAN_GOAL_S:.0f}{_missed(replanned, REPLAN_GOAL_S)}"]
    return lines


def _online(found: dict[str, Any]) -> list[str]:
    told = {"used": "devices used for one's worth, light load", "rejected": "percent rejected, heavy load"}
    lines = [f"online, {found['seeds']} seeds"]
    for figure, title in told.items():
        lines.append(f"{title}: " + ", ".join(f"{name} {mean:.3f}" for name, mean in found["means"][figure].items()))
        for name, pair in found["paired"][figure].items():
            low, median, high = pair["quartiles"]
            missed = _missed(pair["mean"], 0.0)
            lines.append(f"  less {name}: {pair['mean']:+.4f} (quartiles {low:+.4f} {median:+.4f} {high:+.4f})")
            lines.append(f"    better {pair['better']}, equal {pair['equal']}, worse {pair['worse']}{missed}")
    return lines


def _missed(value: float, goal: float) -> str:
    return "   MISSED" if value > goal else ""


if __name__ == "__main__":
    sys.exit(main())
