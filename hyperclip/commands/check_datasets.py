"""Tell which benchmarks are ready to be evaluated, and what is wrong with the others.

    hyperclip-check-datasets     all registered datasets below DETECTRON2_DATASETS
    hyperclip-check-datasets voc21 a150 --histogram     two of them, with their classes
    hyperclip-check-datasets my_dataset.yaml --samples 0

For each: the layout that was found, the number of images against the official one, and a sample of
labels that are read and compared with their images. The exit status is 1 if a named one is not
ready.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence

from tabulate import tabulate

from ..data import DATASETS
from ..data.checking import Report, check_dataset
from ..data.dataset_file import register_files
from ..data.records import first_faults
from ..data.registry import DatasetSpec, dataset_root, find_dataset
from ..runtime.program import program_parser


def choose(names: list[str]) -> list[DatasetSpec]:
    """All datasets, or those with these names or of these files."""
    specs: list[DatasetSpec] = []
    for name in names:
        is_file = name.endswith((".yaml", ".yml"))
        specs += register_files([name]) if is_file else [find_dataset(name)]
    return specs or list(DATASETS.values())


def histogram(report: Report) -> str:
    """The sampled labels' classes as a table, those that never occur in one line."""
    rows = report.histogram()
    table = tabulate([r for r in rows if r[2]], ["class", "% of pixels", "images"], floatfmt=".2f")
    absent = [name for name, _, images in rows if not images]
    share = 100 * report.pixels[-1] / max(report.pixels.sum(), 1)
    ignored = f"{share:.1f} % of the pixels do not count"
    return f"{table}\nnot in the sample ({len(absent)}): {', '.join(absent)}\n{ignored}"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program_parser(__doc__)
    names = "aliases, registered names, or YAML files (default: all registered)"
    parser.add_argument("datasets", nargs="*", help=names)
    samples = "images to open of each, 0 for all (default: %(default)s)"
    parser.add_argument("--samples", type=int, default=50, help=samples)
    classes = "show the classes of the sampled labels"
    parser.add_argument("--histogram", action="store_true", help=classes)
    arguments = parser.parse_args(argv)
    if arguments.samples < 0:
        expected = "expected a positive number, or 0 for all"
        parser.error(f"--samples: got {arguments.samples}, {expected}")
    return arguments


def details(report: Report, named: bool, with_histogram: bool) -> Iterator[str]:
    """What is to be said of a dataset besides its row; more if the user has named it."""
    alias = report.spec.alias
    if report.status == "faulty" or (report.faults and named):
        yield f"{alias}: {len(report.faults)} faults\n{first_faults(report.faults)}\n"
    if report.left_out and named:
        yield "\n".join([f"{alias}: not read", *report.left_out, ""])
    if with_histogram and report.sampled:
        yield f"{alias}: classes in {report.sampled} labels\n{histogram(report)}\n"


def main(argv: Sequence[str] | None = None) -> int | None:
    """Check the datasets, and write what was found; 1 if a named one is not ready."""
    arguments = parse_arguments(argv)
    named = bool(arguments.datasets)
    reports = [check_dataset(spec, arguments.samples) for spec in choose(arguments.datasets)]
    for report in reports:
        for text in details(report, named, arguments.histogram):
            sys.stdout.write(f"{text}\n")
    rows = [(r.spec.alias, r.status, r.images, r.expected, r.sampled, r.layout) for r in reports]
    header = ["dataset", "status", "images", "official", "opened", "labels (label map)"]
    root = f"{dataset_root().resolve()} (environment variable DETECTRON2_DATASETS)"
    sys.stdout.write(f"{tabulate(rows, header, tablefmt='github')}\n\n")
    sys.stdout.write(f"root: {root}; how to get each: datasets/README.md\n")
    return int(named and any(report.status != "ready" for report in reports))
