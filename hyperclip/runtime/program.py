"""How every program of the repository ends: in one line that says what its user can mend."""

import argparse
import itertools
import pydoc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import NoReturn

USER_ERRORS = (OSError, ValueError, FloatingPointError, ImportError, MemoryError)
"""What input, machine or network cause; any other error is the program's, with a traceback."""


def register_systems() -> None:
    """Import the installed packages that add systems by an entry point ``hyperclip.systems``."""
    for package in entry_points(group="hyperclip.systems"):
        package.load()


def program_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows a program's docstring as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def user_errors() -> tuple[type[BaseException], ...]:
    """``USER_ERRORS``, and torch's own where the program has loaded torch."""
    torch = sys.modules.get("torch")
    own = (torch.OutOfMemoryError, torch.distributed.DistError) if torch else ()
    return USER_ERRORS + own


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Have SIGTERM raise KeyboardInterrupt, as Ctrl-C does, so that a program can end in order."""
    if threading.current_thread() is not threading.main_thread():  # others cannot set it
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Call ``main()`` and leave with its status; after a user's error with 1 and a line on stderr.
    Other errors are raised.
    """
    try:
        status = main()
    except user_errors() as error:
        sys.exit(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except Exception as error:
        # torch's, where one of several processes failed; its text ends as a traceback does
        if type(error).__name__ != "ProcessRaisedException":
            raise
        if message := message_of_process(str(error)):
            sys.exit(f"error: {message}")
        sys.exit(f"{error}\nerror: {one_line(str(error).strip().splitlines()[-1])}")
    sys.exit(status)


def one_line(error: BaseException | str) -> str:
    """A message without line ends; the name of an error that has none."""
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return text or type(error).__name__


def after_traceback(text: str) -> str:
    """What follows the traceback in a text: an error and its message, which may have several lines;
    the whole text if there is no traceback.
    """
    lines = text.strip().splitlines()
    frames = [i for i, line in enumerate(lines) if line.startswith("  File ")]
    behind = lines[frames[-1] if frames else 0 :]  # the last frame and its code are indented
    return "\n".join(itertools.dropwhile(lambda line: line[:1] in (" ", ""), behind))


def message_of_process(text: str) -> str:
    """The message of one of :func:`user_errors` in a text that ends with a traceback, as that of
    torch's ProcessRaisedException; "" of any other error.
    """
    name, _, message = after_traceback(text).partition(": ")
    kind = pydoc.locate(name.strip()) if name else None
    known = isinstance(kind, type) and issubclass(kind, user_errors())
    return one_line(message or name) if known else ""
