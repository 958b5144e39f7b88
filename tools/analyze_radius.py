#!/usr/bin/env python
"""Measure hyperbolic radii: hyperclip/commands/analyze_radius.py, with CLIPer."""

import cliper  # noqa: F401  (registers CLIPer and its keys)
from hyperclip.commands.analyze_radius import main
from hyperclip.runtime.program import run_program

if __name__ == "__main__":
    run_program(main)
