"""Running the server until somebody ends it."""

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..runtime.extras import how_to_install
from .pages import Pages

logger = logging.getLogger("hyperclip.serve")
INSTALL = how_to_install("serve")
IDLE_SECONDS = 5
"""After so many seconds without a request a connection is closed."""


def require_libraries() -> None:
    """ImportError, which says how to install it, without the libraries of the server."""
    try:
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError(f"the server needs Starlette and uvicorn ({error}): {INSTALL}") from error


def run(pages: Pages, listener: socket.socket) -> None:
    """Answer requests until SIGINT or SIGTERM: those in progress still get their answers, and
    nothing new is taken. A second SIGINT ends it at once.
    """
    import uvicorn

    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        pages.app(),
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=int(2 * pages.limits.seconds) + 1,
    )
    with signals_dropped():
        uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def signals_dropped() -> Iterator[None]:
    """SIGINT and SIGTERM do nothing by themselves: uvicorn raises them again when it has ended,
    and the program is to leave in order.
    """

    def drop(*_: Any) -> None: ...

    before = {kind: signal.signal(kind, drop) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
