"""The programs, each a module with ``main(argv)``."""

import importlib
import sys
from pathlib import Path
from typing import NoReturn

from ..runtime.program import register_systems, run_program


def console() -> NoReturn:
    """Run the program NAME; what the console script ``hyperclip-NAME`` calls. Names of modules have
    "_" for "-".
    """
    name = Path(sys.argv[0]).name.removeprefix("hyperclip-").replace("-", "_")
    run_program(lambda: importlib.import_module(f"{__name__}.{name}").main())
