"""TCP ports for tests: outside the ephemeral range, so that no outgoing connection takes one in between.

A port is probed before it is handed out and handed out once per process. The workers of one run have ranges of their
own; runs begin at different places, so that two on one machine rarely probe the same port at the same time.
"""

import itertools
import os
import socket
from collections.abc import Iterator

FIRST = 20_000
COUNT = 10_000  # 20000 to 29999; Linux's ephemeral ports begin at 32768
_STRIDE = 64


def _candidates() -> Iterator[int]:
    """pytest-xdist numbers its workers gw0, gw1 and so on, and says how many there are."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    width = COUNT // workers
    offset = (os.getpid() * _STRIDE) % width
    return (FIRST + worker % workers * width + (offset + step) % width for step in itertools.count())


_next_candidate = _candidates()


def is_free(port: int) -> bool:
    """Whether both IPv4 and IPv6 wildcards can be bound, without sharing the port with anyone."""
    for family, host in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                # A port with connections in TIME_WAIT is free for a server, as servers set this option.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                probe.listen(1)
        except OSError as error:
            if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
                return True  # a machine without IPv6
            if isinstance(error, PermissionError):
                raise
            return False
    return True


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> range:
    """Adjacent free ports, as a gateway's range needs them. `OSError` when the whole range is taken."""
    run: list[int] = []
    for _ in range(COUNT):
        port = next(_next_candidate)
        adjacent = not run or port == run[-1] + 1
        if not is_free(port):
            run = []
            continue
        run = [*run, port] if adjacent else [port]
        if len(run) == count:
            return range(run[0], run[-1] + 1)
    raise OSError(f"no {count} adjacent free ports from {FIRST} to {FIRST + COUNT - 1}")
