"""AI compute appliance: the control plane and the gateway."""

__version__ = "0.1.0"
