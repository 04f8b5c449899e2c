"""A tenant reads of its replica's folders from there, and of no other folder of the host."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.services.discretion import HostPaths
from appliance.services.schemas import EventView

HOME = Path("/srv/appliance")
PATHS = HostPaths(HOME, HOME / "runtimes", [Path("/opt/site/images/vllm")])


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("no such file: '/srv/appliance/models/versions/ver_1/a/b.json'", "no such file: 'model/a/b.json'"),
        ("bind /srv/appliance/run/e/rpl_1/engine.sock: in use", "bind run/engine.sock: in use"),
        (
            "The model's folder /srv/appliance/models/versions/ver_1 does not exist.",
            "The model's folder model does not exist.",
        ),
        ("/srv/appliance/runtimes/vllm/0a1b/lib/x.py:3", "runtime/lib/x.py:3"),
        ("/opt/site/images/vllm/vllm_launcher/cpu.py", "runtime/vllm_launcher/cpu.py"),
        (f'File "{sys.base_prefix}/lib/json.py", line 1', 'File "python/lib/json.py", line 1'),
        ("cannot write /srv/appliance/cache/vllm/ten_1/k", "cannot write cache/k"),
        ("/srv/appliance/db/appliance.sqlite", "appliance/db/appliance.sqlite"),
        ("/srv/appliance", "appliance"),
        ("/srv/appliances/x and /model/config.json", "/srv/appliances/x and /model/config.json"),
    ],
)
def test_folders_are_named_from_the_replica(said: str, shown: str) -> None:
    assert PATHS.hide(said) == shown


def test_what_an_event_holds_is_covered_throughout() -> None:
    event = EventView(
        id="evt_1",
        replica_id=None,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        phase="failed",
        message=f"{HOME}/run/e/rpl_1 is in the way",
        detail={"exit": {"code": 1, "last_lines": [f"{HOME}/models/versions/ver_1/config.json"]}},
    )
    shown = PATHS.event(event)
    assert shown.message == "run is in the way"
    assert shown.detail == {"exit": {"code": 1, "last_lines": ["model/config.json"]}}


def test_a_home_behind_a_link_is_known_by_both_names(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    paths = HostPaths(link, link / "runtimes", [])
    assert paths.hide(f"{link}/run/e/rpl_1/x {real}/run/e/rpl_1/x") == "run/x run/x"
