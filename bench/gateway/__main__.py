"""The command: starts the peers, verifies them, measures them in turn, prints a table or JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import bench.gateway as package
from bench.gateway import upstream
from bench.gateway.certificate import write_certificate
from bench.gateway.goals import FOUR, OURS, goals
from bench.gateway.machine import two_cores
from bench.gateway.measuring import MEASUREMENTS, Bench, Sample, idle_memory, stream_memory
from bench.gateway.peers import configured, ours
from bench.gateway.report import render
from bench.gateway.target import Target, TlsPair
from bench.gateway.verifying import NotEqual, verify

Start = Callable[[Path, upstream.Upstream, TlsPair, int], AbstractContextManager[Target]]
PEERS: Final[Mapping[str, Start]] = {
    OURS: ours.appliance,
    FOUR: partial(ours.appliance, workers=4),
    "nginx": configured.nginx,
    "envoy": configured.envoy,
    "vllm-router": configured.vllm_router,
    "litellm": configured.litellm,
}
_MEASURED: Final[Mapping[str, frozenset[str]]] = {
    FOUR: frozenset({"requests"}),
    "vllm-router": frozenset({"requests", "streams", "latency"}),
    "litellm": frozenset({"requests"}),  # it cannot take 200 requests/s
}
"""Where not everything is measured of a peer."""
_MEMORY_OF: Final = (OURS, "nginx", "envoy")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _end)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-gateway-", ignore_cleanup_errors=True) as home:
            return _run(options, Path(home))
    except (NotEqual, OSError, RuntimeError, AssertionError, subprocess.CalledProcessError) as error:
        print(f"the run ended: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _run(options: argparse.Namespace, home: Path) -> int:
    cores = two_cores()
    os.sched_setaffinity(0, {cores.load})
    result: dict[str, Any] = {"cpus": os.cpu_count(), "load_before": os.getloadavg()[0], "seconds": options.seconds}
    result["python"] = f"{platform.python_version()} of {sys.base_prefix}"
    with ExitStack() as stack:
        engine = stack.enter_context(upstream.running(home, cores.load))
        shared = Bench(engine, cores, home, options.seconds)
        result["memory"] = _memory(shared, options)
        targets = [stack.enter_context(_started(name, shared, name)) for name in options.only]
        result["seen"] = {target.name: verify(target, engine, home / target.name) for target in targets}
        result["rounds"] = [_round(shared, targets, number, options.skip) for number in range(options.rounds)]
    result["load_after"] = os.getloadavg()[0]
    _tell(result, options)
    return 0


@contextmanager
def _started(name: str, shared: Bench, folder_name: str) -> Iterator[Target]:
    print(f"starting {name} ...", file=sys.stderr, flush=True)
    folder = shared.home / folder_name
    folder.mkdir()
    with PEERS[name](folder, shared.upstream, write_certificate(folder), shared.cores.peer) as target:
        yield target


def _memory(shared: Bench, options: argparse.Namespace) -> Mapping[str, Sample]:
    """Each figure of a process that has just been started: memory that it had given back to itself would be used
    again, and seem to cost nothing.
    """
    samples: dict[str, dict[str, float]] = {}
    for name in (name for name in _MEMORY_OF if name in options.only and "memory" not in options.skip):
        samples[name] = {}
        for figure, tls, measure in (
            ("idle_bytes", False, idle_memory),
            ("stream_bytes", False, stream_memory),
            ("tls_idle_bytes", True, idle_memory),
            ("tls_stream_bytes", True, stream_memory),
        ):
            with _started(name, shared, f"{name}-{figure}") as target:
                verify(target, shared.upstream, shared.home / f"{name}-{figure}")
                samples[name][figure] = measure(shared, target.over_tls() if tls else target, options.connections)
    return samples


def _round(shared: Bench, targets: Sequence[Target], number: int, skip: Sequence[str]) -> dict[str, dict[str, float]]:
    """Each measurement of all peers one right after the other; each round begins with another peer."""
    samples: dict[str, dict[str, float]] = {target.name: {} for target in targets}
    first = number % len(targets)
    for kind, measure in MEASUREMENTS.items():
        for target in (*targets[first:], *targets[:first]):
            measured = kind not in skip and kind in _MEASURED.get(target.name, MEASUREMENTS)
            if measured and not (kind == "tls" and target.tls_port is None):
                print(f"round {number + 1}: {kind} of {target.name}", file=sys.stderr, flush=True)
                samples[target.name] |= measure(shared, target)
    return samples


def _tell(result: Mapping[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        told = [
            {"name": g.name, "value": g.value, "bound": g.bound, "met": g.met, "by_cpu": g.by_cpu}
            for g in _goals(result)
        ]
        print(json.dumps({**result, "goals": told}, indent=2))
        return
    head = (
        f"{result['cpus']} CPUs, load {result['load_before']:.1f} before and {result['load_after']:.1f} after; "
        f"gateway on one core, upstream and load on another; {options.seconds:g} s each; Python {result['python']}"
    )
    print(render(result["rounds"], result["memory"], options.only, head))
    for peer, seen in result["seen"].items():
        missing = [feature for feature, shown in seen.items() if not shown]
        if missing:
            print(f"  NOT EQUAL: {peer} did not show: {', '.join(missing)}")


def _goals(result: Mapping[str, Any]) -> Any:
    return goals(result["rounds"], result["memory"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gateway",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", type=_names, default=list(PEERS), help=f"peers to run, with commas between: {', '.join(PEERS)}"
    )
    parser.add_argument(
        "--skip",
        type=lambda text: text.split(","),
        default=[],
        help=f"measurements to leave out: {', '.join([*MEASUREMENTS, 'memory'])}",
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each peer is measured (default: 5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each measurement takes (default: 5)")
    parser.add_argument("--connections", type=int, default=1000, help="to measure memory with (default: 1000)")
    parser.add_argument("--json", action="store_true", help="print all samples, not their medians")
    return parser


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
