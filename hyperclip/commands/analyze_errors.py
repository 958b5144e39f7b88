"""Look into the errors of an evaluation: one HTML page, and the same as JSON.

    hyperclip-evaluate --config-file … --benchmarks a150 --output output/evaluation \\
        --opts TEST.SAVE_PREDICTIONS True
    hyperclip-analyze-errors --results output/evaluation --output output/errors

It reads what an evaluation with TEST.SAVE_PREDICTIONS True left, and the dataset's labels: which
classes are taken for which, seen against unseen classes, sizes of segments, errors near borders,
calibration, the worst images. OUTPUT gets errors.html and errors.json. Where RESULTS has
predictions of several datasets or systems, --dataset and --system choose.
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import argparse
import json
import sys
from collections.abc import Sequence

from ..analysis.error_inputs import count_errors, find_result, seen_classes
from ..analysis.error_page import error_page
from ..analysis.error_pictures import pictures_of
from ..analysis.error_report import error_report
from ..data.dataset_file import register_files
from ..runtime.files import need_output_folder, user_path, write_text
from ..runtime.program import program_parser


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program_parser(__doc__)
    add = parser.add_argument
    results = "output folder of an evaluation, with its results.json"
    add("--results", type=user_path, required=True, metavar="FOLDER", help=results)
    add("--dataset", default="", metavar="NAME", help="its name or alias")
    add("--system", default="", metavar="NAME", help="as the results call it")
    default = "default: %(default)s"
    add("--output", type=user_path, default="output/errors", metavar="FOLDER", help=default)
    seen = "classes with masks in training: a file, a built-in list, or text such as 'dog; road' "
    seen += "(default: those of the datasets that the model was trained on)"
    add("--seen", default="", metavar="NAMES", help=seen)
    add("--datasets", nargs="+", default=[], metavar="FILE.yaml", help="describe datasets")
    worst = "how many of the worst images are shown (default: %(default)s)"
    add("--images", type=int, default=12, metavar="N", help=worst)
    arguments = parser.parse_args(argv)
    if arguments.images < 0:
        parser.error(f"--images: got {arguments.images}, expected 0 or more")
    return arguments


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read, count and write."""
    arguments = parse_arguments(argv)
    register_files(arguments.datasets)
    result = find_result(arguments.results, arguments.dataset, arguments.system)
    seen = seen_classes(result, arguments.seen)
    need_output_folder(arguments.output, "--output")
    counts, names = count_errors(result), result.saved.about["names"]
    about = {key: value for key, value in result.saved.about.items() if key != "images"}
    report = error_report(counts, names, seen, about)
    report["overall"]["outside"] = sum(image["outside"] for image in result.saved.images)
    if report["seen"] is None:
        report["seen_unknown"] = seen["source"]
    places = [image["place"] for image in report["images"][: arguments.images]]
    page = error_page(report, {place: pictures_of(result, place, names) for place in places})
    write_text(arguments.output / "errors.json", json.dumps(report, indent=1) + "\n")
    write_text(arguments.output / "errors.html", page)
    sys.stdout.write(f"Written to {arguments.output}/errors.html, errors.json\n")
    return 0
