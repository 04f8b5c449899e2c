"""Engines as processes of this machine, each under a shim of its own. One trust domain: no isolation is claimed."""
