"""What becomes of a request's body in one process."""

import json
from typing import Any

import pytest

from appliance.gateway.plane.defaults import prepare
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.prepared import Prepared
from appliance.gateway.plane.request import Request


def sent(of: Request, body: bytes) -> Any:
    """What the engine gets, read as strictly as JSON is."""
    prepared = prepare(of, body)
    assert prepared is not None
    return json.loads(prepared.body.decode(), parse_constant=pytest.fail)


def outcome(of: Request, body: bytes) -> Prepared | int:
    """What is prepared, or the status of the refusal."""
    try:
        prepared = prepare(of, body)
    except Refusal as found:
        return found.status
    assert prepared is not None
    return prepared


def refusal(of: Request, body: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        prepare(of, body)
    return caught.value
