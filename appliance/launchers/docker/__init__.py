"""Engines as containers without a network, each reached by a unix socket in its own folder."""
