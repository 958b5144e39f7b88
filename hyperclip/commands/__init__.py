"""The programs: train, evaluate, demo and app, each a module with ``main(argv)``."""

import importlib
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import NoReturn

from ..runtime.program import run_program


def console() -> NoReturn:
    """Run the program NAME; what the console script ``hyperclip-NAME`` calls."""
    name = Path(sys.argv[0]).name.removeprefix("hyperclip-")
    run_program(lambda: importlib.import_module(f"{__name__}.{name}").main())


def register_systems() -> None:
    """Import the installed packages that add systems by an entry point ``hyperclip.systems``."""
    for package in entry_points(group="hyperclip.systems"):
        package.load()
