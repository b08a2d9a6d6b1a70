"""Where what runs on this machine listens."""

import socket

import pytest

from cli.local import LOOPBACK, free_port, port_problem


def test_a_port_on_which_something_listens_is_not_chosen() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        free = free_port()
        assert {free_port((port, free)) for _ in range(20)} == {free}
        assert port_problem(port) == "address already in use"


def test_nor_one_that_an_outgoing_connection_has() -> None:
    with socket.create_server((LOOPBACK, 0)) as server, socket.create_connection(server.getsockname()) as outgoing:
        port = outgoing.getsockname()[1]
        assert port_problem(port) == "address already in use"


def test_what_is_chosen_is_not_lent_to_outgoing_connections() -> None:
    lent_by_linux, beyond = 32_768, 65_536  # ip(7), net.ipv4.ip_local_port_range
    assert not {free_port() for _ in range(50)} & set(range(lent_by_linux, beyond))


def test_it_is_said_when_none_is_free() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken, pytest.raises(OSError, match="no free port was found"):
        free_port((taken.getsockname()[1],))
