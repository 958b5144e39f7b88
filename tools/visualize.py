#!/usr/bin/env python
"""Draw answers and what is behind them: hyperclip/commands/visualize.py, with CLIPer."""

import cliper  # noqa: F401  (registers CLIPer and its keys)
from hyperclip.commands.visualize import main
from hyperclip.runtime.program import run_program

if __name__ == "__main__":
    run_program(main)
