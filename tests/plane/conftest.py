import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.gateway.plane import wire
from tests.plane import sharing
from tests.plane.fake_engine import FakeEngine, fake_engine
from tests.plane.harness import KEY, SERVICE, TENANT, Gateway, key_entry, running, service, sha256
from tests.support.ports import free_port


@pytest.fixture(scope="module")
def module_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeEngine]:
    with fake_engine(tmp_path_factory.mktemp("engine") / "engine.sock") as engine:
        yield engine


@pytest.fixture(scope="module")
def module_gateway(tmp_path_factory: pytest.TempPathFactory, module_engine: FakeEngine) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("home")
    with running(Gateway(home, free_port(), module_engine.path)) as gateway:
        yield gateway


@pytest.fixture
def engine(module_engine: FakeEngine) -> Iterator[FakeEngine]:
    """The module's engine, answering as a healthy one again."""
    module_engine.reset()
    yield module_engine
    module_engine.reset()


@pytest.fixture
def gateway(module_gateway: Gateway, engine: FakeEngine) -> Gateway:
    """The module's gateway with its first snapshot: one service, one key."""
    module_gateway.services = {SERVICE: service(engine.path)}
    module_gateway.keys = {sha256(KEY): key_entry()}
    module_gateway.publish()
    return module_gateway


@pytest.fixture
def own_engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with fake_engine(tmp_path / "engine.sock") as engine:
        yield engine


@pytest.fixture
def own_gateway(tmp_path: Path, own_engine: FakeEngine) -> Iterator[Gateway]:
    """A gateway for a test that harms it; not started."""
    home = tmp_path / "home"
    home.mkdir()
    gateway = Gateway(home, free_port(), own_engine.path)
    yield gateway
    if gateway.process is not None:
        gateway.stop()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def shared(gateway: Gateway, engine: FakeEngine) -> Gateway:
    """Tenant acme with `chat` and `tensors`, tenant rival with `secret`, which it shares with nobody, and `lent`."""
    rival = {"tenant_id": "ten_2", "tenant_name": "rival"}
    services = [
        sharing.of(engine, "chat", aliases=["gpt-4"]),
        sharing.of(engine, "tensors", routes=[*sharing.V2, "POST /predict", "POST /upload raw query"]),
        sharing.of(engine, "secret", **rival, cache_salt="salt of rival"),
        sharing.of(engine, "lent", **rival, cache_salt="salt of rival", shared_with=[TENANT]),
    ]
    gateway.listeners = [wire.Listener("lsn_1", "gwy_1", "127.0.0.1", gateway.port)]
    gateway.services = {each.id: each for each in services}
    gateway.keys |= {
        sha256(sharing.OTHER_KEY): key_entry(key_id="key_2", tenant_id="ten_2"),
        sha256(sharing.NARROW): key_entry(key_id="key_3", services=["svc_chat"], routes=["POST /v1/chat/completions"]),
    }
    gateway.tenants = {TENANT: wire.TenantEntry("acme", cache_salt="salt of acme"), "ten_2": wire.TenantEntry("rival")}
    gateway.publish()
    return gateway
