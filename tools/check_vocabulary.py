#!/usr/bin/env python
"""Tell what a model makes of names: hyperclip/commands/vocabulary.py."""

from hyperclip.commands.vocabulary import main
from hyperclip.runtime.program import run_program

if __name__ == "__main__":
    run_program(main)
