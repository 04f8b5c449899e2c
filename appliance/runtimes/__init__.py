"""Runtimes (engines): what each can serve, how it is started, and what a tenant may set. Images and environments."""
