"""What every program of the repository does at its end: leave, and say in one line what its user
can mend.
"""

from __future__ import annotations

import argparse
import itertools
import pydoc
import sys
from collections.abc import Callable
from typing import NoReturn

USER_ERRORS = (OSError, ValueError, FloatingPointError, ImportError, MemoryError)
"""What input, machine or network cause; anything else is a fault of the program, which needs its
traceback.
"""


def program_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows a program's docstring as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def user_errors() -> tuple[type[BaseException], ...]:
    """``USER_ERRORS``, and torch's own where the program has loaded torch; one that needs none runs
    without it.
    """
    torch = sys.modules.get("torch")
    return (
        (*USER_ERRORS, torch.OutOfMemoryError, torch.distributed.DistError)
        if torch
        else USER_ERRORS
    )


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Call ``main()`` and leave with the status that it returns; after one of :func:`user_errors`
    with 1 and a line on stderr.

    Raises:
        SystemExit: always, but for errors that are none of its user's.
    """
    try:
        status = main()
    except user_errors() as error:
        sys.exit(f"error: {one_line(error)}")
    # one of several processes failed; its text ends as a traceback does
    except _process_errors() as error:
        message = message_of_process(str(error))
        sys.exit(
            f"error: {message}"
            if message
            else f"{error}\nerror: {one_line(str(error).strip().splitlines()[-1])}"
        )
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    sys.exit(status)


def _process_errors() -> tuple[type[BaseException], ...]:
    torch = sys.modules.get("torch")
    return (torch.multiprocessing.ProcessRaisedException,) if torch else ()


def one_line(error: BaseException | str) -> str:
    """A message without line ends; the name of an error that has none."""
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return text or type(error).__name__


def message_of_process(text: str) -> str:
    """The message of one of :func:`user_errors` that ended another process; "" of any other error.

    Args:
        text: of torch's ProcessRaisedException, a traceback.
    """
    lines = text.rstrip().splitlines()
    frames = [i for i, line in enumerate(lines) if line.startswith("  File ")]
    # The error stands behind the last frame and its code, which are indented; its message may have
    # several lines
    rest = list(
        itertools.dropwhile(
            lambda line: line[:1] in (" ", ""), lines[frames[-1] if frames else 0 :]
        )
    )
    name, _, message = "\n".join(rest).partition(": ")
    kind = pydoc.locate(name.strip()) if rest else None
    return (
        one_line(message or name)
        if isinstance(kind, type) and issubclass(kind, user_errors())
        else ""
    )
