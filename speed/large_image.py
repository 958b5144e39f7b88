"""Peak memory of a large image's segmentation: python speed/large_image.py --side 20000

A synthetic GeoTIFF of SIDE x SIDE pixels is written by windows and segmented with a system that
costs next to nothing, so that what is measured is reading, blending and writing. ``--classes 847``
asks as many names as the largest benchmark.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from hyperclip.large import raster, segment_file
from hyperclip.runtime.memory import forget_peak, peak_bytes

from tests.helpers import large

CPU = torch.device("cpu")


def measure(side: int, classes: int, window: int, tile: int) -> dict[str, float]:
    """Megabytes in use before and at most, and seconds."""
    names = [*large.COLORS, *(f"name {k}" for k in range(classes - len(large.COLORS)))]
    large.COLORS |= {name: (k % 256, k // 3 % 256, 0) for k, name in enumerate(names[3:])}
    predictor = large.cheap(cells=96 if classes > 100 else 16)
    with tempfile.TemporaryDirectory() as folder:
        small = large.write_map(f"{folder}/small.tif", 256, 256)
        segment_file(predictor, small, f"{folder}/small_out.tif", names[:classes], window=64)
        source = large.write_map(f"{folder}/large.tif", side, side, period=97)
        forget_peak(CPU)
        before, start = peak_bytes(CPU), time.perf_counter()
        asked = {"window": window, "tile": tile}
        segment_file(predictor, source, f"{folder}/out.tif", names[:classes], **asked)
        seconds, peak = time.perf_counter() - start, peak_bytes(CPU)
    return {"before": before / 1e6, "peak": peak / 1e6, "seconds": seconds}


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--window", type=int, default=768)
    parser.add_argument("--tile", type=int, default=0)
    cached = "of the file's blocks, which grow with a small file (default: as always)"
    parser.add_argument("--cache", type=int, default=raster.CACHE, metavar="BYTES", help=cached)
    arguments = parser.parse_args()
    raster.CACHE = arguments.cache
    found = measure(arguments.side, arguments.classes, arguments.window, arguments.tile)
    more = found["peak"] - found["before"]
    side, seconds = arguments.side, found["seconds"]
    line = f"{side} x {side} pixels, {arguments.classes} names: {more:.0f} MB above the model"
    sys.stdout.write(f"{line} ({found['before']:.0f} MB), {seconds:.0f} s\n")


if __name__ == "__main__":
    main()
