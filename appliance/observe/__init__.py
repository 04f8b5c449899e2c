"""What is watched over time: the history of devices, tenants and the platform."""
