"""A control plane that cannot start says why, and leaves alone what runs without it."""

from __future__ import annotations

from tests.support.appliance import Tenant, prepared, running

NOBODY = "postgresql://appliance:confidential@127.0.0.1:1/appliance"


def test_engines_and_gateway_outlive_a_start_that_fails() -> None:
    with running() as appliance:
        tenant = Tenant.create(appliance)
        tenant.publish("chat")
        before = tenant.until("chat", "ready")
        supervisor = appliance.pid_of("supervisor")
        appliance.kill()
        key = appliance.home / "operator.key"
        key.rename(key.with_suffix(".away"))
        key.mkdir()  # found only after the engines' launcher and the gateway's keeper were made
        appliance.spawn()
        assert appliance.wait_for_death(30)
        assert (appliance.engines(), appliance.pid_of("supervisor")) == (1, supervisor)
        key.rmdir()
        key.with_suffix(".away").rename(key)
        appliance.start()
        assert replicas_of(tenant) == [replica["id"] for replica in before["deployments"][0]["current"]]
        assert not appliance.violations()


def test_a_database_that_is_down_is_named_without_its_password() -> None:
    with prepared(APPLIANCE_DATABASE_URL=NOBODY) as appliance:
        appliance.spawn()
        assert appliance.wait_for_death(30)
        assert "error: the database does not answer" in appliance.output()
        assert_discreet(appliance.output())


def test_settings_are_shown_without_the_password() -> None:
    with prepared(APPLIANCE_DATABASE_URL=NOBODY) as appliance:
        shown = appliance.cli("run", "--check")
        assert "127.0.0.1:1/appliance" in shown.stdout
        assert_discreet(shown.stdout + shown.stderr)


def replicas_of(tenant: Tenant) -> list[str]:
    return [replica["id"] for replica in tenant.service("chat")["deployments"][0]["current"]]


def assert_discreet(output: str) -> None:
    assert "confidential" not in output
    assert "Traceback" not in output
