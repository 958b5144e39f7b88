"""Memory does not hold the image."""

from __future__ import annotations

import re

from tests.helpers.programs import run_program

SIDE = 4_000


def test_memory_holds_a_strip_and_not_the_image():
    """Strips are one window wide. Pixels and labels alone would be 64 MB, and scores 192 MB more;
    it takes 32 MB.
    """
    strips = ("--window", 256, "--tile", 256, "--cache", 8_000_000)
    done = run_program("speed/large_image.py", "--side", SIDE, "--classes", 3, *strips)
    assert done.returncode == 0, done.stderr
    assert 0 < int(re.search(r": (\d+) MB above", done.stdout)[1]) < 4 * SIDE**2 / 1e6
