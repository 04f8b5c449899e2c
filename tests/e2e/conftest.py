"""What the appliance runs on: each database, each launcher, all four together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.support import light, postgres
from tests.support.docker import BASE_IMAGE, require_image

Environ = Mapping[str, str]

POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)
DOCKER = pytest.param("docker", marks=pytest.mark.docker)


@contextmanager
def database_environ(request: pytest.FixtureRequest) -> Iterator[Environ]:
    """For a fixture with the parameters "sqlite" and `POSTGRES`: the environment of an appliance on an empty one."""
    if request.param == "sqlite":
        yield {}
        return
    with postgres.database(request.getfixturevalue("postgres_server")) as url:
        yield {"APPLIANCE_DATABASE_URL": url}


@pytest.fixture(params=["sqlite", POSTGRES])
def on_database(request: pytest.FixtureRequest) -> Iterator[Environ]:
    with database_environ(request) as environ:
        yield environ


@pytest.fixture(params=["process", DOCKER])
def on_launcher(request: pytest.FixtureRequest) -> Environ:
    """The environment of an appliance that starts the light engine as a process or in a container."""
    if request.param == "process":
        return {}
    environ: Environ = request.getfixturevalue("on_docker")
    return environ


@pytest.fixture(scope="session")
def on_docker(docker_host: str, docker_images: frozenset[str]) -> Environ:
    require_image(docker_images, BASE_IMAGE)
    light.build_light_image(docker_host)
    return {"APPLIANCE_LAUNCHER": "docker", "APPLIANCE_DOCKER__HOST": docker_host}
