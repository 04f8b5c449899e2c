"""The command line: `appliance run`, and a client of the REST API for everything else."""
