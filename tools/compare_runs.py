#!/usr/bin/env python
"""Print one table over several evaluated runs; folders joined by commas are seeds of the same model.

    python tools/compare_runs.py "Dense CLIP=output/a" "HyperCLIP=output/seed1,output/seed2"
"""

from __future__ import annotations

import argparse
import sys

from hyperclip.evaluation.report import comparison_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER[,FOLDER…]")
    parser.add_argument("--metric", default="mIoU", help="mIoU, mIoU_old, pACC or mACC")
    arguments = parser.parse_args()
    pairs = [run.partition("=") for run in arguments.runs]
    if not all(name and folders for name, _, folders in pairs):
        parser.error(f"expected NAME=FOLDER[,FOLDER…], got {arguments.runs}")
    print(comparison_table({name: folders.split(",") for name, _, folders in pairs}, arguments.metric))


if __name__ == "__main__":
    try:
        main()
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
