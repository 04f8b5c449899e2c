"""The process that stands between the control plane and one engine, and outlives the former.

Standard library only, and little of that: its start is part of every launch. It runs as a script
(`python -I -S shim/__main__.py <run dir> <lock descriptor>`), so that no site-packages are needed.
"""
