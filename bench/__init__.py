"""Measurements of the appliance as a whole, on real processes. A benchmark reports; it never fails on a time."""
