#!/usr/bin/env python
"""Tell which benchmarks are ready to be evaluated, and what is wrong with the others.

    python tools/check_datasets.py     all registered datasets below DETECTRON2_DATASETS
    python tools/check_datasets.py voc21 a150 --histogram     two of them, with their classes
    python tools/check_datasets.py my_dataset.yaml --samples 0

For each: the layout that was found, the number of images against the official one, and a sample of
labels that are read and compared with their images. The exit status is 1 if a named one is not
ready.
"""

from hyperclip.data import DATASETS
from hyperclip.data.checking import Report, check_dataset
from hyperclip.data.dataset_file import register_files
from hyperclip.data.records import first_faults
from hyperclip.data.registry import DatasetSpec, dataset_root, find_dataset
from hyperclip.runtime.program import program_parser, run_program
from tabulate import tabulate


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


def main() -> int:
    parser = program_parser(__doc__)
    names = "aliases, registered names, or YAML files (default: all registered)"
    parser.add_argument("datasets", nargs="*", help=names)
    samples = "images to open of each, 0 for all (default: %(default)s)"
    parser.add_argument("--samples", type=int, default=50, help=samples)
    classes = "show the classes of the sampled labels"
    parser.add_argument("--histogram", action="store_true", help=classes)
    arguments = parser.parse_args()
    if arguments.samples < 0:
        expected = "expected a positive number, or 0 for all"
        parser.error(f"--samples: got {arguments.samples}, {expected}")
    reports = [check_dataset(spec, arguments.samples) for spec in choose(arguments.datasets)]
    for report in reports:
        if report.status == "faulty" or (report.faults and arguments.datasets):
            listed = first_faults(report.faults)
            print(f"{report.spec.alias}: {len(report.faults)} faults\n{listed}\n")
        if report.left_out and arguments.datasets:
            print("\n".join([f"{report.spec.alias}: not read", *report.left_out, ""]))
        if arguments.histogram and report.sampled:
            print(f"{report.spec.alias}: classes in {report.sampled} labels\n{histogram(report)}\n")
    rows = [(r.spec.alias, r.status, r.images, r.expected, r.sampled, r.layout) for r in reports]
    header = ["dataset", "status", "images", "official", "opened", "labels (label map)"]
    print(tabulate(rows, header, tablefmt="github"))
    root = f"{dataset_root().resolve()} (environment variable DETECTRON2_DATASETS)"
    print(f"\nroot: {root}; how to get each: datasets/README.md")
    return int(bool(arguments.datasets) and any(report.status != "ready" for report in reports))


if __name__ == "__main__":
    run_program(main)
