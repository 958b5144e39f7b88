#!/usr/bin/env python
"""Segment an image of any size: hyperclip/commands/segment_large.py."""

from hyperclip.commands.segment_large import main
from hyperclip.runtime.program import run_program

if __name__ == "__main__":
    run_program(main)
