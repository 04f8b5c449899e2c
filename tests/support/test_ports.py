import socket

import pytest

from tests.support.ports import COUNT, FIRST, free_port, free_ports, is_free


def test_ports_are_handed_out_once_and_from_the_range():
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert all(FIRST <= port < FIRST + COUNT for port in ports)


def test_a_range_is_adjacent():
    assert len(free_ports(16)) == 16


@pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")],
)
def test_a_taken_port_is_not_free(family: socket.AddressFamily, host: str):
    port = free_port()
    with socket.socket(family, socket.SOCK_STREAM) as taken:
        taken.bind((host, port))
        taken.listen(1)
        assert not is_free(port)
    assert is_free(port)
