from appliance.runtimes.memory import device_memory

GIB = 1024**3


def test_the_weights_are_split_and_each_device_has_overhead() -> None:
    assert device_memory(24 * GIB, 1) == 25 * GIB
    assert device_memory(24 * GIB, 2) == 13 * GIB
    assert device_memory(5, 2) == 3 + GIB


def test_nothing_is_asked_where_nothing_is_known() -> None:
    assert device_memory(24 * GIB, 0) == 0
    assert device_memory(0, 1) == 0
