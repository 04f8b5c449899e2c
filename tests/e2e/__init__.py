"""Whole appliances: real processes, real sockets, real files."""
