#!/usr/bin/env python
"""A page to try any image and any words: hyperclip/commands/app.py, with CLIPer."""

import cliper  # noqa: F401  (registers CLIPer and its keys)
from hyperclip.commands.app import main
from hyperclip.runtime.program import run_program

if __name__ == "__main__":
    run_program(main)
