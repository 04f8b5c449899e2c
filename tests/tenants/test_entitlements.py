"""What grants permit: pure rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from appliance.kernel.access import Access
from tenants.entitlements import Entitlement
from tenants.grant_schemas import GrantKind, Target

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
KINDS = [("nvidia", "H200"), ("nvidia", "L4"), ("iluvatar", "MR-V100")]
expiries = st.sampled_from([None, NOW - HOUR, NOW, NOW + HOUR])
names = st.sampled_from([f"{vendor}/{model}" for vendor, model in KINDS])
classes = st.dictionaries(names, expiries)


def pool(access: Access, id_: str = "pol_1") -> Target:
    return Target(GrantKind.pool, id_, "night", access)


def entitled(kind: GrantKind, **expiries: datetime | None) -> Entitlement:
    return Entitlement("acme", NOW, {kind: expiries})


def of_classes(granted: dict[str, datetime | None]) -> Entitlement:
    return Entitlement("acme", NOW, {GrantKind.device_class: granted})


def test_what_is_public_is_everyones_and_what_is_dedicated_takes_a_grant() -> None:
    nobody = Entitlement("acme", NOW)
    assert nobody.refusal(pool(Access.public)) is None
    assert nobody.refusal(pool(Access.dedicated)) == "pool night is dedicated and not granted to tenant acme"
    granted = entitled(GrantKind.pool, pol_1=None)
    assert granted.refusal(pool(Access.dedicated)) is None
    assert granted.refusal(pool(Access.dedicated, "pol_2")) is not None
    assert entitled(GrantKind.gateway, pol_1=None).refusal(pool(Access.dedicated)) is not None


def test_a_grant_ends_at_its_instant() -> None:
    granted = entitled(GrantKind.pool, pol_1=NOW + HOUR)
    target = pool(Access.dedicated)
    assert granted.refusal(target) is None
    assert granted.at(NOW + HOUR - timedelta(microseconds=1)).refusal(target) is None
    assert granted.at(NOW + HOUR).refusal(target) == "the grant of pool night expired at 2026-01-01T01:00:00Z"
    assert granted.at(NOW + HOUR).refusal(pool(Access.public)) is None


def test_a_tenant_with_classes_may_use_those_and_no_other() -> None:
    assert of_classes({}).excluded(KINDS) == {}
    bound = of_classes({"nvidia/L4": None, "nvidia/H200": NOW})
    assert bound.excluded(KINDS) == {
        "H200": "the grant of device class nvidia/H200 expired at 2026-01-01T00:00:00Z",
        "MR-V100": "device class iluvatar/MR-V100 is not granted to tenant acme, which has grants of others",
    }


@given(classes, names)
def test_an_end_never_gives_a_right(granted: dict[str, datetime | None], ended: str) -> None:
    """Whatever is granted: as time goes on, and as a grant is given an earlier end, no device comes within reach."""
    before = of_classes(granted)
    later = before.at(NOW + 2 * HOUR)
    assert later.excluded(KINDS).keys() >= before.excluded(KINDS).keys()
    if ended in granted:
        shortened = before.until(GrantKind.device_class, ended, NOW)
        assert shortened.excluded(KINDS).keys() >= before.excluded(KINDS).keys()


@given(classes, names)
def test_what_is_granted_is_within_reach_and_what_is_taken_back_is_not(
    granted: dict[str, datetime | None], named: str
) -> None:
    vendor, model = named.split("/")
    given_ = of_classes(granted).until(GrantKind.device_class, named, NOW + HOUR)
    assert given_.refusal_of_class(vendor, model) is None
    left = given_.without(GrantKind.device_class, named)
    assert (left.refusal_of_class(vendor, model) is None) is (not left.is_bound_to_classes)
