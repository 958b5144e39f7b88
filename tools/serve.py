#!/usr/bin/env python
"""Answer other programs over HTTP: hyperclip/commands/serve.py, with CLIPer."""

import cliper  # noqa: F401  (registers CLIPer and its keys)
from hyperclip.commands.serve import main
from hyperclip.runtime.program import run_program

if __name__ == "__main__":
    run_program(main)
