#!/usr/bin/env python
"""Segment images with classes of your own choice: hyperclip/commands/demo.py, with CLIPer."""

import cliper  # noqa: F401  (registers CLIPer and its keys)
from hyperclip.commands.demo import main
from hyperclip.runtime.program import run_program

if __name__ == "__main__":
    run_program(main)
