"""What this domain needs and cannot make itself; the composition root brings it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tenants.activity import Sightings
from tenants.budgets import FindService
from tenants.keys import ServiceCheck
from tenants.logins import LoginDesk
from tenants.schemas import QuotaDefaults
from tenants.tenancy import Blocker


@dataclass(frozen=True, slots=True)
class Provisions:
    """`blockers` count what other domains' objects a tenant owns; `check_services` and `find_service`
    know the services.
    """

    login_desk: LoginDesk
    quota_defaults: QuotaDefaults
    blockers: Sequence[Blocker]
    check_services: ServiceCheck
    find_service: FindService
    sightings: Sightings
