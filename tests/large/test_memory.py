"""Memory does not grow with the image."""

from __future__ import annotations

import re

from tests.helpers.programs import run_program

SMALL, LARGE = 1_000, 3_000


def above_the_model(side):
    options = ("--window", 512, "--tile", 768, "--cache", 2**23, "--classes", 2)
    done = run_program("speed/large_image.py", "--side", side, *options)
    assert done.returncode == 0, done.stderr
    return int(re.search(r": (\d+) MB above", done.stdout)[1])


def test_memory_does_not_grow_with_the_image():
    """The larger image alone would take 27 MB, the scores of its pixels 72 MB."""
    small, large = above_the_model(SMALL), above_the_model(LARGE)
    assert large < small + 20
