"""Evaluate systems on benchmarks: each model is loaded once, one table beside the papers' numbers.

    hyperclip-evaluate \\
        --config-file configs/vitb_384_hyperbolic.yaml MODEL.WEIGHTS model_final.pth \\
        --benchmarks a150,a847,pc59,pc459,pas20,pas20b --output output/evaluation
    hyperclip-evaluate --config-file configs/cliper/vit-l-14/ovs_voc21.yaml \\
        --config-file configs/cliper/vit-l-14/ovs_city.yaml --benchmarks own --limit 20

--config-file takes KEY VALUE pairs of its own and may be given several times. A benchmark is an
alias or a registered name (`--list` shows them), "all" for those of the papers, "own" for each
config's DATASETS.TEST, or the YAML file of a dataset of your own. OUTPUT gets results.json,
results.csv and results.md with the rows of the latest call, and rows/ with a file for each row and
its classes, from which a killed run goes on. The exit status is 1 if a row failed.
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from detectron2.engine import launch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from ..config.keys import load_config
from ..data import DATASETS
from ..data.dataset_file import register_files
from ..evaluation.results_files import read_results
from ..evaluation.suite import System, make_plan, run_suite
from ..evaluation.tables import benchmark_table
from ..runtime import files, memory, program
from ..training.launch import check_process_count, leaving_together
from . import register_systems


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program.program_parser(__doc__)
    add = parser.add_argument
    add("--config-file", action="append", nargs="+", metavar=("FILE", "KEY VALUE"), default=[])
    add("--benchmarks", default="all", help="separated by commas (default: %(default)s)")
    add("--output", type=files.user_path, default="output/evaluation", help="default: %(default)s")
    add("--limit", type=int, default=0, metavar="N", help="only the first N images of each set")
    partial = "evaluate incomplete sets, leave out missing ones"
    add("--allow-partial", action="store_true", help=partial)
    add("--list", action="store_true", help="show the benchmarks and leave")
    add("--num-gpus", type=int, default=1, help="processes; without a GPU they share the CPU")
    rest = argparse.REMAINDER
    add("--opts", nargs=rest, default=[], metavar="KEY VALUE", help="for every config")
    arguments = parser.parse_args(argv)
    if not arguments.config_file and not arguments.list:
        parser.error("--config-file is needed")
    if arguments.limit < 0:
        parser.error(f"--limit: got {arguments.limit}, expected a positive number, or 0 for all")
    return arguments


def load_systems(arguments: argparse.Namespace) -> list[System]:
    """A system for each --config-file, named after its file, the second one of a name with "-2";
    raises as :func:`load_config` does.
    """
    systems: list[System] = []
    used: Counter[str] = Counter()
    for path, *overrides in arguments.config_file:
        file = Path(path)
        name = file.stem if file.parent.name == "configs" else f"{file.parent.name}-{file.stem}"
        used[name] += 1
        name = f"{name}-{used[name]}" if used[name] > 1 else name
        cfg = load_config(path, [*overrides, *arguments.opts])
        cfg.OUTPUT_DIR = str(arguments.output / "rows" / name)
        register_files(cfg.DATASETS.FILES)
        cfg.freeze()
        systems.append(System(name, cfg))
    return systems


def list_benchmarks() -> str:
    """The registered datasets as a table."""
    rows = [
        (s.alias, s.name, len(s.label_names), s.background, " or ".join(map(str, s.images)))
        for s in DATASETS.values()
    ]
    return tabulate(rows, ["alias", "name", "classes", "background", "images"], tablefmt="github")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate in one process of a run; 1 if a row failed."""
    register_systems()
    setup_logger(str(arguments.output), distributed_rank=comm.get_rank(), name="hyperclip")
    memory.keep_freed_memory()
    systems, benchmarks = load_systems(arguments), arguments.benchmarks.split(",")
    plan = make_plan(systems, benchmarks, arguments.limit, arguments.allow_partial)
    if systems[0].cfg.SEED >= 0:
        seed_all_rng(systems[0].cfg.SEED)
    rows = run_suite(plan, arguments.output)
    if comm.is_main_process():
        written = f"Written to {arguments.output}/results.json, results.csv, results.md"
        sys.stdout.write(f"{benchmark_table(rows)}\n\n{written}\n")
    return int(any("error" in row for row in rows))


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read the command line, check the output folder, and evaluate in --num-gpus processes."""
    arguments = parse_arguments(argv)
    if arguments.list:
        sys.stdout.write(f"{list_benchmarks()}\n")
        return 0
    check_process_count(arguments.num_gpus)
    files.need_output_folder(arguments.output, "--output")
    if arguments.num_gpus > 1:
        launch(leaving_together, arguments.num_gpus, dist_url="auto", args=(run, arguments))
        # What run returned stayed in its process
        return int(any("error" in row for row in read_results(arguments.output)))
    return run(arguments)
