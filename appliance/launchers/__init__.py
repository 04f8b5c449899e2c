"""Start, find again and stop one replica: as a supervised process, or as a container.

The shim runs from this package without third-party modules: this file imports nothing.
"""
