"""Memory does not grow with the image."""

from __future__ import annotations

import re

from tests.helpers.programs import run_program

SMALL, LARGE = 1_000, 5_000


def above_the_model(side):
    done = run_program("speed/large_image.py", "--side", side, "--window", 512)
    assert done.returncode == 0, done.stderr
    return int(re.search(r": (\d+) MB above", done.stdout)[1])


def test_memory_does_not_grow_with_the_image():
    """The larger image alone would take 75 MB, the scores of its pixels 300 MB."""
    small, large = above_the_model(SMALL), above_the_model(LARGE)
    assert large < small + 60
