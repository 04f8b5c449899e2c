"""Fixtures that tests of every part use."""

import signal

from hypothesis import HealthCheck, settings

# A shell without job control starts what it runs in the background with SIGINT ignored, and every child inherits
# that: tests of Ctrl-C need it as a terminal has it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes depends on what else the machine does, and is not what these tests are about.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("tests")

pytest_plugins = [
    "pytester",
    "tests.support.requirements",
    "tests.support.postgres",
    "tests.support.docker",
    "tests.support.database",
    "tests.support.scheduling",
]
