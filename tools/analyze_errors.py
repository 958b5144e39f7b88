#!/usr/bin/env python
"""Look into the errors of an evaluation: hyperclip/commands/analyze_errors.py."""

from hyperclip.commands.analyze_errors import main
from hyperclip.runtime.program import run_program

if __name__ == "__main__":
    run_program(main)
