"""Gateways, their listeners and ports; what goes to the data plane and what comes back from it."""
