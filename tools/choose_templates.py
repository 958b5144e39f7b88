#!/usr/bin/env python
"""Choose templates by unlabelled images: hyperclip/commands/choose_templates.py."""

from hyperclip.commands.choose_templates import main
from hyperclip.runtime.program import run_program

if __name__ == "__main__":
    run_program(main)
