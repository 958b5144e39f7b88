#!/usr/bin/env python
"""Tell which datasets are ready, and what is wrong: hyperclip/commands/check_datasets.py."""

from hyperclip.commands.check_datasets import main
from hyperclip.runtime.program import run_program

if __name__ == "__main__":
    run_program(main)
