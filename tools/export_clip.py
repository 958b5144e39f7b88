#!/usr/bin/env python
"""Write the CLIP of a training, its adapters merged: hyperclip/commands/export_clip.py."""

from hyperclip.commands.export_clip import main
from hyperclip.runtime.program import run_program

if __name__ == "__main__":
    run_program(main)
