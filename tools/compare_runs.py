#!/usr/bin/env python
"""Print one table over several evaluated runs; folders joined by commas are seeds of the same
model.

    python tools/compare_runs.py "Dense CLIP=output/a" "HyperCLIP=output/seed1,output/seed2"
"""

from __future__ import annotations

import argparse

from hyperclip.evaluation.results import read_results, write_json
from hyperclip.evaluation.tables import comparison_table
from hyperclip.runtime.files import user_path
from hyperclip.runtime.program import run_program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER[,FOLDER…]")
    parser.add_argument("--metric", default="mIoU", choices=("mIoU", "mIoU_old", "pACC", "mACC"))
    parser.add_argument(
        "--json",
        type=user_path,
        help="also write the rows of all runs to this file, each with its name as system",
    )
    arguments = parser.parse_args()
    pairs = [run.partition("=") for run in arguments.runs]
    if not all(name and folders for name, _, folders in pairs):
        parser.error(f"expected NAME=FOLDER[,FOLDER…], got {arguments.runs}")
    runs = {
        name: [read_results(folder) for folder in folders.split(",")] for name, _, folders in pairs
    }
    print(comparison_table(runs, arguments.metric))
    if arguments.json:
        write_json(
            [
                row | {"system": name}
                for name, seeds in runs.items()
                for rows in seeds
                for row in rows
            ],
            arguments.json,
        )


if __name__ == "__main__":
    run_program(main)
