"""A simulated fleet: stub libraries of both vendors, and hosts whose devices do what a test wants."""
