"""Compute: nodes, devices, pools, flavors, exclusive leases, and placement that explains itself.

Knows nothing of tenants or services: a lease's holder is a replica id, and audit rows are the caller's.
"""
