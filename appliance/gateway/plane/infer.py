"""Inference requests of the Open Inference Protocol V2: JSON, or with the binary tensor data extension a JSON header
followed by the tensors' bytes, where `Inference-Header-Content-Length` tells the header's length.

Nothing is decided by what they contain, so they are passed on as they came, once it is sure that they are well-formed.
"""

from __future__ import annotations

import re
from typing import Final

from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.guards import members_of
from appliance.gateway.plane.prepared import Prepared

HEADER_LENGTH: Final = b"inference-header-content-length"
_LENGTH = re.compile(rb"[0-9]{1,9}")


def prepare_infer(body: bytes, header_length: bytes | None) -> Prepared:
    """`Refusal` 400 for a header that is not a JSON object, or a length that the body does not have."""
    prepared = Prepared()
    prepared.body = body
    if header_length is None:
        members_of(body)
        return prepared
    length = int(header_length) if _LENGTH.fullmatch(header_length) else -1
    if not 0 < length <= len(body):
        raise Refusal(
            400,
            "invalid_value",
            f"Inference-Header-Content-Length is not a number from 1 to the body's {len(body)} bytes.",
        )
    members_of(body[:length])
    prepared.fields = b"content-type: application/octet-stream\r\n%b: %d\r\n" % (HEADER_LENGTH, length)
    return prepared


def header_length_line(fields: dict[bytes, bytes]) -> bytes:
    """The line of an answer's head that tells where its tensors begin, if the engine's answer has them."""
    value = fields.get(HEADER_LENGTH)
    return b"" if value is None or not _LENGTH.fullmatch(value) else b"%b: %b\r\n" % (HEADER_LENGTH, value)
