"""This gateway beside others in front of the same upstream, on the same core, in alternating rounds.

    python -m bench.gateway [--rounds 5] [--seconds 5] [--only appliance,envoy] [--skip memory] [--json]

Two cores: the gateway under test has one for itself; the upstream, the load generator and the bench share the other.
The upstream (`upstream.c`) listens on a unix socket, where this gateway, nginx and Envoy reach it, and on TCP for
vllm-router and LiteLLM, which know only URLs. Before a peer is measured it must have shown that it answers and does
what it is compared at (`verifying`). Everything is on loopback; each peer that is a Python package is installed into
an environment of its own on first use.
"""
