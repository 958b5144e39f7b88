#!/usr/bin/env python
"""Print one table over several evaluated runs; folders joined by commas are seeds of a model.

python tools/compare_runs.py "Dense CLIP=output/a" "HyperCLIP=output/seed1,output/seed2"
"""

from hyperclip.evaluation.results_files import read_results, write_json
from hyperclip.evaluation.tables import comparison_table
from hyperclip.runtime.files import user_path
from hyperclip.runtime.program import program_parser, run_program


def main() -> None:
    parser = program_parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER[,FOLDER…]")
    parser.add_argument("--metric", default="mIoU", choices=("mIoU", "mIoU_old", "pACC", "mACC"))
    about = "also write the rows of all runs to this file, each with its name as system"
    parser.add_argument("--json", type=user_path, help=about)
    arguments = parser.parse_args()
    runs = {}
    for run in arguments.runs:
        name, _, folders = run.partition("=")
        if not name or not folders:
            parser.error(f"expected NAME=FOLDER[,FOLDER…], got {arguments.runs}")
        runs[name] = [read_results(folder) for folder in folders.split(",")]
    print(comparison_table(runs, arguments.metric))
    if arguments.json:
        named = [row | {"system": n} for n, seeds in runs.items() for rows in seeds for row in rows]
        write_json(named, arguments.json)


if __name__ == "__main__":
    run_program(main)
