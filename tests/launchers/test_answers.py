import pytest
from docker.errors import APIError
from msgspec import convert

from appliance.launchers.contract import ExitInfo, ReplicaState
from appliance.launchers.docker.answers import Container, ContainerStats, refusal
from appliance.launchers.docker.settings import DockerSettings
from appliance.launchers.errors import ImageMissing, StartRefused


def _container(**state: object) -> Container:
    return convert(
        {
            "Id": "c0ffee",
            "Name": "/appliance-rpl_1",
            "State": {
                "Status": "exited",
                "ExitCode": 0,
                "OOMKilled": False,
                "StartedAt": "2026-01-01T00:00:00.123456789Z",
                "FinishedAt": "2026-01-01T00:00:01Z",
                **state,
            },
            "Config": {"Labels": {"appliance": "a", "replica": "rpl_1"}},
        },
        type=Container,
    )


def _exit(code: int) -> ExitInfo:
    observed = _container(ExitCode=code).observed(ReplicaState.EXITED, ())
    assert observed.exit is not None
    return observed.exit


@pytest.mark.parametrize(
    ("number", "code", "signal"),
    [(0, 0, None), (7, 7, None), (127, 127, None), (137, None, 9), (143, None, 15), (255, 255, None)],
)
def test_exit_codes_above_128_are_signals(number: int, code: int | None, signal: int | None) -> None:
    ended = _exit(number)
    assert (ended.code, ended.signal) == (code, signal)


def test_a_container_is_ours_by_label_and_name() -> None:
    assert _container().belongs_to("a")
    assert not _container().belongs_to("b")


def test_a_container_that_was_never_started_has_no_start() -> None:
    observed = _container(Status="created", StartedAt="0001-01-01T00:00:00Z").observed(ReplicaState.CREATED, ())
    assert observed.started_at == 0
    assert observed.exit is None


def test_page_cache_is_not_counted_as_memory() -> None:
    given = {
        "cpu_stats": {"cpu_usage": {"total_usage": 1_500_000_000}},
        "memory_stats": {"usage": 1000, "stats": {"total_inactive_file": 400}},
        "pids_stats": {"current": 3},
    }
    stats = convert(given, type=ContainerStats).stats()
    assert (stats.cpu_seconds, stats.memory_bytes, stats.pids) == (1.5, 600, 3)
    assert convert({"memory_stats": {}}, type=ContainerStats).stats().memory_bytes == 0


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        ("No such image: x:1", ImageMissing, "x:1"),
        (
            'OCI runtime create failed: exec: "vllm": executable file not found in $PATH: unknown',
            StartRefused,
            "no program vllm",
        ),
        ('could not select device driver "nvidia" with capabilities: [[gpu]]', StartRefused, "NVIDIA container"),
        (
            'error gathering device information while adding custom device "/dev/itrctl": no such file or directory',
            StartRefused,
            "/dev/itrctl",
        ),
        ("invalid mount config for type bind: bind source path does not exist: /m/x", StartRefused, "/m/x"),
        ("something\n   unheard of", StartRefused, "something unheard of"),
    ],
)
def test_refusals_are_told_in_words(said: str, kind: type[Exception], told: str) -> None:
    error = refusal(APIError("refused", explanation=said), "x:1")
    assert type(error) is kind
    assert told in error.detail


def test_engines_never_run_as_root_by_default() -> None:
    assert 0 not in DockerSettings().owner()
    assert DockerSettings(uid=1000, gid=5).owner() == (1000, 5)
