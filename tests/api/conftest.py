"""One running appliance for the tests of the API's surface, and its two documents."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from appliance.api.context import Port
from appliance.api.openapi import document
from tests.api.specimens import Json
from tests.support.appliance import Appliance, running


@pytest.fixture(scope="package")
def appliance() -> Iterator[Appliance]:
    with running() as appliance:
        yield appliance


@pytest.fixture(scope="package")
def admin_document() -> Json:
    return document(Port.admin)


@pytest.fixture(scope="package")
def tenant_document() -> Json:
    return document(Port.tenant)
