"""Nodes, devices, vendors, pools, placement."""
