import pytest

from tests.support.requirements import VARIABLE, Requirement, required

SUITE = """
import pytest
from tests.support.requirements import Requirement, unavailable

def test_unavailable():
    unavailable(Requirement.DOCKER, "there is no daemon")

@pytest.mark.engine
def test_skips_itself():
    pytest.skip("no engine")

def test_other():
    pytest.skip("unrelated")
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\nmarkers =\n    engine: engine")
    pytester.makepyfile(SUITE)
    return pytester


def _run(suite: pytest.Pytester) -> pytest.RunResult:
    return suite.runpytest_inprocess("-p", "tests.support.requirements", "-p", "no:cacheprovider")


def test_without_the_variable_what_is_not_there_is_skipped(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    result = _run(suite)
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(["*= skipped =*", "*1 there is no daemon", "*1 no engine", "*1 unrelated"])


def test_what_is_required_is_not_skipped(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "docker, engines")
    result = _run(suite)
    result.assert_outcomes(failed=2, skipped=1)
    result.stdout.fnmatch_lines(["*names docker, but there is no daemon*", "*names engines, but it was skipped*"])


def test_a_misspelt_requirement_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "dokcer")
    with pytest.raises(pytest.UsageError, match="dokcer"):
        required()


def test_values_are_the_documented_names():
    assert sorted(Requirement) == ["docker", "engines", "gpu", "nginx", "node", "postgres"]
