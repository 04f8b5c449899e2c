"""Identifiers: `<prefix>_<20 Crockford base-32 characters>`, 48 bits of Unix milliseconds and 52 of randomness.

They sort by creation time, are unique without coordination (the primary key has the last word), and say what they
name, so that a key id in the place of a service id is an error a person sees.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import NewType

TenantId = NewType("TenantId", str)
UserId = NewType("UserId", str)
KeyId = NewType("KeyId", str)
ModelId = NewType("ModelId", str)
VersionId = NewType("VersionId", str)
ServiceId = NewType("ServiceId", str)
DeploymentId = NewType("DeploymentId", str)
ReplicaId = NewType("ReplicaId", str)

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LENGTH = 20
_RANDOM_BITS = _LENGTH * 5 - 48
_SHAPE = re.compile(rf"^[a-z]{{3}}_[{_ALPHABET}]{{{_LENGTH}}}$")


def new_id(prefix: str) -> str:
    number = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    digits = []
    for _ in range(_LENGTH):
        number, digit = divmod(number, 32)
        digits.append(_ALPHABET[digit])
    return f"{prefix}_{''.join(reversed(digits))}"


def is_id(text: str, prefix: str) -> bool:
    return text.startswith(f"{prefix}_") and _SHAPE.fullmatch(text) is not None
