"""Requests over plain HTTP, each on a connection of its own, so that every worker behind a port is met.

`httpx.get` makes a client for each request and with it a TLS context, which reads every authority that the machine
trusts: 40 ms of processor time, a hundred times what the request takes.
"""

from __future__ import annotations

from typing import Final

import httpx

PLAIN: Final = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=30, trust_env=False)
