"""Which service a path or a model leads to, for whom, and what stays hidden."""

import json
import string
import time
from itertools import permutations
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from appliance.gateway.plane.directory import names
from appliance.gateway.plane.errors import Refusal
from appliance.gateway.plane.principal import Principal
from appliance.gateway.plane.route import engine_route, locate, own_answer, pending_route, resolve, with_query
from appliance.gateway.plane.routes import Body, Route, RouteTable
from appliance.gateway.plane.tables import ServiceTable, Tables
from tests.plane.parts import GATEWAY, backends, pending, principal, shard, tables

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
PATHS = st.text(st.sampled_from([*string.ascii_lowercase, *"/.%~_-{}"]), max_size=30).map(lambda text: f"/{text}")


def by_path(of: Tables, by: Principal, path: str) -> tuple[str | None, str]:
    lead, rest = locate(path.encode(), pending(of, by))
    return lead.shard.id if isinstance(lead, ServiceTable) else None, rest.decode()


def by_model(of: Tables, by: Principal, model: str) -> str:
    return of.directory(GATEWAY, by.key.tenant_id).by_model(model, by)


def leads(of: Tables, by: Principal, model: str) -> str | None:
    try:
        return by_model(of, by, model)
    except Refusal:
        return None


def listed(of: Tables, by: Principal) -> list[str]:
    whole = of.directory(GATEWAY, by.key.tenant_id).listing(by).whole
    return [card["id"] for card in json.loads(whole)["data"]]


def refused(call: Any, *arguments: Any) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        call(*arguments)
    return caught.value.status, caught.value.code


def test_path_names_a_service_of_the_keys_tenant() -> None:
    of = tables(shard("chat"), shard("chat", "other"), shard("v1"))
    assert by_path(of, principal(), "/chat/v1/chat/completions") == ("svc_acme_chat", "/v1/chat/completions")
    assert by_path(of, principal("other"), "/chat/v1/chat/completions")[0] == "svc_other_chat"
    assert by_path(of, principal(), "/acme.chat/v1/embeddings")[0] == "svc_acme_chat"
    assert by_path(of, principal(), "/v1/chat/completions") == (None, "/v1/chat/completions")
    assert by_path(of, principal(), "/acme.v1/v1/embeddings") == ("svc_acme_v1", "/v1/embeddings")


@pytest.mark.parametrize(
    "path",
    ["/other.chat/v1/chat/completions", "/secret/v1/x", "//chat/v1/x", "/./chat/v1/x", "/../v1/x", "/%63hat/v1/x"],
)
def test_what_is_anothers_is_like_what_does_not_exist(path: str) -> None:
    with_it = tables(shard("chat"), shard("chat", "other"), shard("secret", "other"))
    without = tables(shard("chat"))
    outcomes = []
    for of in (with_it, without):
        with pytest.raises(Refusal) as caught:
            by_path(of, principal(), path)
        outcomes.append((caught.value.status, caught.value.body()))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == 404


def test_shared_service_is_reached_by_its_full_name_only_by_those_it_is_shared_with() -> None:
    of = tables(shard("chat", "owner", shared_with=["ten_acme"]), shard("chat", gateway_id="gwy_2"))
    assert by_path(of, principal(), "/owner.chat/v1/embeddings")[0] == "svc_owner_chat"
    assert by_model(of, principal(), "chat-model") == "svc_owner_chat"
    assert refused(by_path, of, principal(), "/chat/v1/embeddings") == (404, "service_not_found")
    assert refused(by_path, of, principal("stranger"), "/owner.chat/v1/embeddings") == (404, "service_not_found")
    assert refused(by_model, of, principal("stranger"), "chat-model") == (404, "model_not_found")


def test_sharing_takes_over_no_name_of_the_tenants_own() -> None:
    own = shard("chat", served_model="gpt")
    of = tables(own, shard("bait", "owner", served_model="gpt", aliases=["chat"], shared_with=["ten_acme"]))
    assert by_model(of, principal(), "gpt") == own.id
    assert by_model(of, principal(), "chat") == own.id
    assert by_model(of, principal(), "owner.bait") == "svc_owner_bait"
    assert listed(of, principal()) == ["gpt", "owner.bait"]


@pytest.mark.parametrize("model", ["chat", "chat-model", "gpt-4", "acme.chat"])
def test_model_is_a_served_name_an_alias_or_the_services_name(model: str) -> None:
    of = tables(shard("chat", aliases=["gpt-4"]), shard("other", "other", aliases=["gpt-5"]))
    assert by_model(of, principal(), model) == "svc_acme_chat"
    assert refused(by_model, of, principal(), "gpt-5") == (404, "model_not_found")


def test_ambiguous_model_names_the_choices_that_the_key_has() -> None:
    of = tables(*(shard(name, served_model="gpt") for name in ("a", "b", "hidden")))
    by = principal(services=["svc_acme_a", "svc_acme_b"])
    with pytest.raises(Refusal) as caught:
        by_model(of, by, "gpt")
    assert (caught.value.status, caught.value.code) == (400, "model_ambiguous")
    assert "'acme.a', 'acme.b'" in caught.value.message
    assert "hidden" not in caught.value.message
    assert by_model(of, by, "acme.b") == "svc_acme_b"
    assert by_model(of, principal(services=["svc_acme_b"]), "gpt") == "svc_acme_b"
    assert listed(of, by) == ["acme.a", "acme.b"]


def test_what_a_name_leads_to_does_not_depend_on_the_order_of_the_shards() -> None:
    shards = [shard(name, tenant, served_model="gpt", shared_with=["ten_guest"]) for name, tenant in ("bo", "ao", "ap")]
    for ordered in permutations(shards):
        with pytest.raises(Refusal) as caught:
            by_model(tables(*ordered), principal("guest"), "gpt")
        assert "'o.a', 'o.b', 'p.a'" in caught.value.message


def test_key_for_some_services_sees_no_other() -> None:
    of = tables(shard("a"), shard("b"))
    by = principal(services=["svc_acme_a"])
    assert listed(of, by) == ["a-model"]
    assert refused(by_path, of, by, "/b/v1/embeddings") == (404, "service_not_found")
    assert refused(by_model, of, by, "b-model") == (404, "model_not_found")
    assert listed(of, principal()) == ["a-model", "b-model"]
    assert listed(of, principal("stranger")) == []


def test_tenant_whose_name_makes_anothers_alias_takes_nothing_over_by_sharing() -> None:
    own = shard("chat", aliases=["gpt-4.1"])
    of = tables(own, shard("1", "gpt-4", served_model="gpt-4.1", shared_with=["ten_acme"]))
    assert by_model(of, principal(), "gpt-4.1") == own.id
    assert by_path(of, principal(), "/gpt-4.1/v1/embeddings")[0] == "svc_gpt-4_1"
    assert listed(of, principal()) == ["chat-model", "gpt-4.1", "1"]


@given(
    st.lists(
        st.builds(
            shard,
            NAMES,
            st.sampled_from(["acme", "other"]),
            served_model=st.sampled_from(["m", "n", "o"]),
            aliases=st.lists(st.sampled_from(["m", "x", "acme.m"]), max_size=2),
            shared_with=st.lists(st.sampled_from(["ten_acme", "ten_third"]), max_size=2),
            gateway_id=st.sampled_from([GATEWAY, "gwy_2"]),
        ),
        max_size=6,
        unique_by=lambda each: each.id,
    ),
    st.sampled_from(["acme", "other", "third"]),
    st.sampled_from([None, "every other"]),
)
def test_whatever_is_listed_leads_to_a_service_that_the_key_may_use_and_each_is_listed(
    services: list[Any], tenant: str, restricted: str | None
) -> None:
    by = principal(tenant, services=[each.id for each in services[::2]] if restricted else None)
    of = tables(*services)
    usable = {
        each.id
        for each in services
        if each.gateway_id == GATEWAY
        and (each.tenant_name == tenant or f"ten_{tenant}" in each.shared_with)
        and by.may_use(each.id)
    }
    reached = {by_model(of, by, name) for name in listed(of, by)}
    assert reached <= usable
    for each in services:
        if each.id in usable:
            assert each.id in reached or not any(leads(of, by, name) == each.id for name in names(each))
            assert by_path(of, by, f"/{each.tenant_name}.{each.name}/v1/embeddings")[0] == each.id


def test_body_without_a_model_and_route_of_another_service() -> None:
    of = tables(shard("chat"), shard("embed", routes=["POST /v1/embeddings"]))
    by = principal()
    lead = pending(of, by)
    directory = lead.directory
    route = pending_route(b"POST", b"/v1/chat/completions", directory).route
    assert refused(resolve, lead, route, None, 1) == (400, "model_required")
    assert refused(resolve, lead, route, "embed-model", 1) == (404, "unknown_url")
    assert resolve(lead, route, "chat", 1).shard.id == "svc_acme_chat"
    assert refused(pending_route, b"GET", b"/v1/chat/completions", directory) == (405, "method_not_allowed")
    assert refused(pending_route, b"POST", b"/metrics", directory) == (404, "unknown_url")


# Changes of the snapshot


def test_directory_lives_through_changes_that_name_nothing_anew() -> None:
    known = backends()
    first = tables(shard("a"), shard("b", "other"), known=known)
    directory, others = (first.directory(GATEWAY, f"ten_{tenant}") for tenant in ("acme", "other"))

    second = tables(shard("a", max_queued=5), shard("b", "other", served_model="new"), before=first, known=known)
    assert second.directory(GATEWAY, "ten_acme") is directory
    assert second.directory(GATEWAY, "ten_other") is not others
    assert by_model(second, principal("other"), "new") == "svc_other_b"

    third = tables(shard("a", shared_with=["ten_other"]), before=second, known=known)
    assert listed(third, principal("other")) == ["a-model"]
    assert by_model(third, principal(), "a-model") == "svc_acme_a"

    fourth = tables(shard("a"), before=third, known=known)
    assert listed(fourth, principal("other")) == []
    assert listed(tables(before=fourth, known=known), principal()) == []


# Routes


V2 = ["GET /v2/models/{model}", "POST /v2/models/{model}/infer", "POST /v2/models/{model}/versions/{version}/infer"]


def test_model_of_a_path_is_checked_and_the_engine_told_its_own_name() -> None:
    of = tables(shard("chat", routes=V2, served_model="org.m", aliases=["mine"]))
    service = of.services["svc_acme_chat"]
    matched = engine_route(b"POST", b"/v2/models/mine/versions/3/infer", service)
    assert matched.line == b"POST /v2/models/org.m/versions/3/infer"
    assert (matched.model, matched.route.label) == ("mine", V2[2])
    assert refused(engine_route, b"POST", b"/v2/models/else/infer", service) == (404, "model_not_found")
    assert refused(engine_route, b"PUT", b"/v2/models/mine/infer", service) == (405, "method_not_allowed")
    assert by_path(of, principal(), "/v2/models/mine/infer")[0] == "svc_acme_chat"
    assert refused(by_path, of, principal("other"), "/v2/models/mine/infer") == (404, "model_not_found")


@given(PATHS)
@example("/v2/models/../infer")
@example("/v2/models//infer")
@example("/v2/models/a%2fb/infer")
@example("/v2/models/{model}/infer")
def test_placeholder_stands_for_one_plain_segment_only(path: str) -> None:
    found = RouteTable(tuple(V2)).find(b"POST", path.encode())
    if found is not None:
        segment = path.split("/")[3]
        assert segment not in ("", ".", "..")
        assert not set(segment) & set("/%{}?#")
        assert found.line(b"m").count(b"/") == path.count("/")
        assert found.line(b"m").startswith(b"POST /v2/models/m/")


@given(NAMES, PATHS)
def test_path_leads_to_the_service_of_exactly_its_first_segment(name: str, path: str) -> None:
    assume(name not in ("v1", "v2", "healthz"))
    of = tables(shard(name))
    assert by_path(of, principal(), f"/{name}{path}") == (f"svc_acme_{name}", path)
    first = path.split("/")[1]
    if first not in (name, f"acme.{name}", "v1", "v2") and path.count("/") > 1:
        assert refused(by_path, of, principal(), path)[0] == 404


@pytest.mark.parametrize(
    ("described", "body", "query"),
    [
        ("POST /v1/audio/transcriptions raw", Body.RAW, False),
        ("POST /predict raw query", Body.RAW, True),
        ("POST /predict", Body.JSON, False),
        ("GET /info query", Body.NONE, True),
        ("POST /v2/models/{model}/infer", Body.INFER, False),
        ("POST /v1/embeddings", Body.OPENAI, False),
    ],
)
def test_what_a_route_declares(described: str, body: Body, query: object) -> None:
    route = Route(described)
    assert (route.body, route.query) == (body, query)
    assert route.label == " ".join(described.split()[:2])


def test_query_is_passed_on_where_it_is_declared_and_else_refused() -> None:
    plain, declared = Route("POST /predict"), Route("POST /predict query")
    assert with_query(declared.line, declared, b"a=b&c=%20") == b"POST /predict?a=b&c=%20"
    assert with_query(plain.line, plain, b"api-version=2024-02-01") == b"POST /predict"
    assert refused(with_query, plain.line, plain, b"a=b") == (400, "unexpected_query")
    assert refused(with_query, plain.line, plain, b"api-version=1&a=b") == (400, "unexpected_query")


@pytest.mark.parametrize("name", ["org/m", "a:b@c+d"])
def test_models_card_is_found_by_its_plain_and_its_encoded_name(name: str) -> None:
    service = tables(shard(served_model=name)).services["svc_acme_chat"]
    encoded = name.replace("/", "%2F").replace(":", "%3A").replace("@", "%40").replace("+", "%2B")
    for path in (name, encoded, encoded.replace("%3A", ":")):
        answer = own_answer(b"GET", f"/v1/models/{path}".encode(), service)
        assert answer is not None
        assert json.loads(answer)["id"] == name


# Keys


@pytest.mark.parametrize(
    ("networks", "peer", "allowed"),
    [
        ([], "203.0.113.9", True),
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "11.1.2.3", False),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["2001:db8::/32", "192.0.2.7"], "192.0.2.7", True),
        (["2001:db8::/32"], "2001:db8::1", True),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["2001:db8::/32"], "10.0.0.1", False),
        (["not a network"], "10.0.0.1", False),
        (["0.0.0.0/0"], "", False),
    ],
)
def test_networks_of_a_key(networks: list[str], peer: str, allowed: object) -> None:
    assert principal(networks=networks).may_come_from(peer) is allowed


@pytest.mark.alone
def test_one_changed_service_among_500_is_applied_in_milliseconds() -> None:
    known = backends()
    services = [shard(f"s{number}", f"t{number % 50}") for number in range(500)]
    before = tables(*services, known=known)
    for number in range(50):
        before.directory(GATEWAY, f"ten_t{number}")
    took = []
    for turn in range(5):
        services[7] = shard("s7", "t7", max_queued=turn)
        started = time.perf_counter()
        before = tables(*services, before=before, known=known)
        took.append(time.perf_counter() - started)
    assert min(took) < 0.02
