#!/usr/bin/env python
"""Build a memory bank of a folder of images: hyperclip/commands/build_bank.py."""

from hyperclip.commands.build_bank import main
from hyperclip.runtime.program import run_program

if __name__ == "__main__":
    run_program(main)
