"""The command: exit status 0 when every invariant holds, 1 with each violation named, 2 when it cannot tell."""
# ruff: noqa: T201 - a command prints

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from tests.checker.run import SETTLE_S, check


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        violations = check(
            options.home.absolute(),
            database_url=options.database_url,
            docker_host=options.docker_host,
            secrets=_secrets(options.secrets),
            foreign=frozenset(options.foreign),
            settle_s=options.settle,
        )
    except (OSError, ValueError, KeyError) as error:
        print(f"cannot check {options.home}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([asdict(violation) for violation in violations], indent=2))
    else:
        for violation in violations:
            print(violation)
        print(f"{len(violations)} violations" if violations else "every invariant holds")
    return 1 if violations else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.checker", description="Check a running appliance.")
    parser.add_argument("--home", type=Path, required=True, help="its APPLIANCE_HOME")
    parser.add_argument("--database-url", help="as in APPLIANCE_DATABASE_URL; default: SQLite below the home")
    parser.add_argument("--docker-host", help="the daemon of the Docker launcher, unix://...; default: none")
    parser.add_argument("--secrets", type=Path, help="a file of secrets to look for, one a line")
    parser.add_argument("--foreign", action="append", default=[], help="a container that must have been left alone")
    parser.add_argument("--settle", type=float, default=SETTLE_S, help="seconds that a difference may last")
    parser.add_argument("--json", action="store_true", help="print the violations as JSON")
    return parser


def _secrets(path: Path | None) -> Mapping[str, bytes]:
    lines = [] if path is None else path.read_bytes().splitlines()
    return {f"{path}:{number}": line for number, line in enumerate(lines, start=1) if line}


if __name__ == "__main__":
    sys.exit(main())
