"""What a service's start costs besides its engine, how fast the control plane starts, and what it weighs idle.

    python -m bench.launch [--docker-host unix:///...] [--runs 5] [--json]

The engine is the light one of the tests: a real process, or container, with a real socket. Of its start only its own
part is taken away: from the start of its process (or container) until it listens, from when on it answers /health,
and the time in which it answers its first request. It tells both in its log.
"""
