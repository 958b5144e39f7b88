#!/usr/bin/env python
"""Write a model as files for other runtimes: hyperclip/commands/export.py."""

from hyperclip.commands.export import main
from hyperclip.runtime.program import run_program

if __name__ == "__main__":
    run_program(main)
