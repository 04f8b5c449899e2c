"""Fixtures that tests of every part use."""

pytest_plugins = [
    "pytester",
    "tests.support.requirements",
    "tests.support.postgres",
    "tests.support.docker",
    "tests.support.database",
]
