#!/usr/bin/env python
"""Evaluate systems on benchmarks: hyperclip/commands/evaluate.py, with CLIPer."""

import cliper  # noqa: F401  (registers CLIPer and its keys)
from hyperclip.commands.evaluate import main
from hyperclip.runtime.program import run_program

if __name__ == "__main__":
    run_program(main)
