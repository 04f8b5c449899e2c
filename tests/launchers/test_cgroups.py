"""The values for both versions of control groups. Only v1 runs on the machines of these tests."""

from appliance.launchers.shim.cgroups import Groups, Limits


def test_limits_become_files() -> None:
    limits = Limits(cpus=1.5, memory_bytes=1024, pids=100)
    assert limits.files(unified=True) == {
        "memory": [("memory.max", "1024", True), ("memory.swap.max", "0", False), ("memory.oom.group", "1", False)],
        "pids": [("pids.max", "100", True)],
        "cpu": [("cpu.max", "150000 100000", True)],
    }
    assert limits.files(unified=False) == {
        "memory": [("memory.limit_in_bytes", "1024", True), ("memory.memsw.limit_in_bytes", "1024", False)],
        "pids": [("pids.max", "100", True)],
        "cpu": [("cpu.cfs_quota_us", "150000", True)],
    }
    assert Limits(cpus=None, memory_bytes=None, pids=None).files(unified=True) == {}


def test_groups_that_are_gone_hold_nothing() -> None:
    groups = Groups(["/sys/fs/cgroup/no-such-group"], ["memory"])
    assert groups.members() == []
    assert not groups.out_of_memory()
    groups.remove()
