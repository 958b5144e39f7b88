"""Listening at an address, or one line that says why that cannot be."""

import os
import socket


def listen(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A socket that listens at a port of an address of this machine; ValueError for a number that
    is no port, OSError where nothing can listen.
    """
    if not 0 < port < 2**16:
        raise ValueError(f"--port: got {port}, expected 1 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(os.name != "nt"))
            listener.bind(address)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        where = f"--port: got {port}" + f" with --host {host}" * (host != "127.0.0.1")
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        reason = f"where nothing can listen ({why}). Choose another one"
        raise OSError(f"{where}, {reason}") from error
    return listener


def check_port(port: int, host: str = "127.0.0.1") -> None:
    """Raise as :func:`listen` unless a program can listen there."""
    listen(port, host).close()
