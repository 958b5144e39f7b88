"""Listening, and one line where that cannot be."""

from __future__ import annotations

import socket

import pytest
from hyperclip.runtime.ports import check_port, listen


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_port_is_one_program_s():
    port = free_port()
    with listen(port) as listener:
        assert listener.getsockname() == ("127.0.0.1", port)
        for again in (listen, check_port):
            with pytest.raises(OSError, match=f"^--port: got {port}, where nothing can listen"):
                again(port)
        with socket.create_connection(("127.0.0.1", port)):
            pass
    check_port(port)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_no_port(port):
    with pytest.raises(ValueError, match=f"--port: got {port}, expected 1 to 65535"):
        listen(port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a" * 70])
def test_no_address_of_this_machine(host):
    with pytest.raises(OSError, match=f"with --host {host}, where nothing can listen"):
        check_port(free_port(), host)
