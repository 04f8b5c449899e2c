from pathlib import Path

from appliance.gateway.demand import Demands
from appliance.gateway.plane.demands import Demand, demand_directory, is_demanded, write_demand


def test_nothing_is_pending_before_any_worker_has_written(tmp_path: Path) -> None:
    demands = Demands(tmp_path)
    assert demands.pending() == {}
    demands.forget("svc_1")
    demands.clear(Demand("svc_1", 1.0))


def test_each_service_is_asked_for_once_however_often_it_is_written(tmp_path: Path) -> None:
    directory = demand_directory(tmp_path)
    for at in (1.0, 2.0, 3.0):
        write_demand(directory, Demand("svc_1", at))
    write_demand(directory, Demand("svc_2", 2.5))
    assert Demands(tmp_path).pending() == {"svc_1": Demand("svc_1", 3.0), "svc_2": Demand("svc_2", 2.5)}
    assert Demands(tmp_path).pending() == Demands(tmp_path).pending(), "looking changes nothing"
    assert sorted(path.name for path in directory.iterdir()) == ["svc_1.json", "svc_2.json"]


def test_demand_that_was_met_is_cleared_but_not_a_newer_one(tmp_path: Path) -> None:
    directory, demands = demand_directory(tmp_path), Demands(tmp_path)
    write_demand(directory, Demand("svc_1", 1.0))
    met = demands.pending()["svc_1"]
    write_demand(directory, Demand("svc_1", 2.0))
    demands.clear(met)
    assert demands.pending() == {"svc_1": Demand("svc_1", 2.0)}
    demands.clear(demands.pending()["svc_1"])
    assert demands.pending() == {}
    assert not is_demanded(directory, "svc_1")


def test_service_that_falls_asleep_has_no_demand_of_its_sleep_before(tmp_path: Path) -> None:
    demands = Demands(tmp_path)
    write_demand(demand_directory(tmp_path), Demand("svc_1", 1.0))
    demands.forget("svc_1")
    assert demands.pending() == {}


def test_files_that_are_no_demands_are_left_out(tmp_path: Path) -> None:
    directory = demand_directory(tmp_path)
    write_demand(directory, Demand("svc_1", 1.0))
    (directory / "broken.json").write_bytes(b"{")
    (directory / "svc_2.json").write_bytes(b'{"service_id":"svc_1","at":2.0}')
    (directory / ".svc_3.1").write_bytes(b'{"service_id":"svc_3","at":2.0}')
    assert set(Demands(tmp_path).pending()) == {"svc_1"}
