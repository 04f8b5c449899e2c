"""The Docker daemon that tests run containers on: the one `APPLIANCE_TEST_DOCKER_HOST` names.

The variable is the tests' own, so that nobody's `DOCKER_HOST` is used by accident: the tests start, kill and
remove containers. `.ci/run` starts a private daemon; by hand, source `.ci/lib/docker.sh` and call `docker_start`.
"""

import os

import docker
import docker.errors
import pytest
import requests

from tests.support.requirements import Requirement, unavailable

VARIABLE = "APPLIANCE_TEST_DOCKER_HOST"
BASE_IMAGE = "appliance/base:bookworm"
BUSYBOX_IMAGE = "appliance/busybox:latest"


@pytest.fixture(scope="session")
def docker_host() -> str:
    """The daemon's address (`unix://...`), which answered. Skips without one."""
    host = os.environ.get(VARIABLE, "")
    if not host:
        unavailable(Requirement.DOCKER, f"{VARIABLE} is not set (docs/ci.md)")
    try:
        client = docker.DockerClient(base_url=host, timeout=10)
        try:
            client.ping()
        finally:
            client.close()
    except (docker.errors.DockerException, requests.RequestException) as error:
        unavailable(Requirement.DOCKER, f"the Docker daemon of {VARIABLE}={host} does not answer: {error}")
    return host


@pytest.fixture(scope="session")
def docker_images(docker_host: str) -> frozenset[str]:
    """The tags of the images that the daemon has."""
    client = docker.DockerClient(base_url=docker_host, timeout=30)
    try:
        return frozenset(tag for image in client.images.list() for tag in image.tags)
    finally:
        client.close()


def require_image(images: frozenset[str], tag: str) -> str:
    """Skips a test whose image has not been built into the daemon (`images/base/build.sh`, `images/build.sh`)."""
    if tag not in images:
        unavailable(Requirement.DOCKER, f"the daemon has no image {tag} (docs/ci.md)")
    return tag
