#!/usr/bin/env python
"""Train or evaluate a model: hyperclip/commands/train.py from the repository, with CLIPer."""

import cliper  # noqa: F401  (registers CLIPer and its keys)
from hyperclip.commands.train import main
from hyperclip.runtime.program import run_program

if __name__ == "__main__":
    run_program(main)
