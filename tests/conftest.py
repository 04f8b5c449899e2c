"""Fixtures that tests of every part use."""

import signal

# A shell without job control starts what it runs in the background with SIGINT ignored, and every child inherits
# that: tests of Ctrl-C need it as a terminal has it.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "pytester",
    "tests.support.requirements",
    "tests.support.postgres",
    "tests.support.docker",
    "tests.support.database",
    "tests.support.scheduling",
]
