"""The data plane: runs in its own processes, imports the kernel at most and nothing else of ours.

What the control plane may use of it is in `wire`. A request's way through a worker, one module a step: `acceptor` -
`tls_transport` where there is TLS - `client_protocol` (HTTP/1.1 over a `connection`, by `head` and `body`) -
`admission` (`admit` the key, `route` by `directory` and `routes`) - `defaults` (with `guards` and `media`) - `balance`
- `forward` over `upstream` - `relay` back - `meter` - `spool`. Most of it may run as machine code (`compiled`).
"""

from appliance.gateway.plane.compiled import choose

COMPILED = choose()
"""Whether this process runs it as such."""
