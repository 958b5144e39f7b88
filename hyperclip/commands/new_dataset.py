"""Look at images and their labels, and write the dataset file that describes them.

    hyperclip-new-dataset photos/ masks/ --output streets.yaml
    hyperclip-new-dataset photos/ instances.json --output streets.yaml
    hyperclip-new-dataset photos/ masks/ --names names.txt --output streets.yaml

MASKS is a folder of masks (of class indices, with or without a palette, or colour-coded), of
LabelMe's JSON files or of YOLO's polygons, or a JSON file of COCO (instances or panoptic). They are
read as they are, now and in training: nothing is converted or copied. Every fifth image is held out
as the split "val". What the classes are called stands in the file, where labels say it; else name
them in it, since the words are what the model is asked.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..data.image_files import ORIENTATIONS
from ..data.new_dataset.describe import Description, Request, describe_dataset
from ..data.new_dataset.kinds import KINDS
from ..runtime.files import user_path, write_text
from ..runtime.program import program_parser

SHOWN = 40
"""So many classes are shown."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program_parser(__doc__)
    add = parser.add_argument
    add("images", type=user_path, metavar="IMAGES", help="folder of the images")
    add("labels", type=user_path, metavar="MASKS", help="folder of the labels, or COCO's JSON file")
    output = "the dataset file to write (default: %(default)s)"
    add("--output", type=user_path, default=Path("dataset.yaml"), metavar="FILE.yaml", help=output)
    add("--name", default="", help="of the dataset (default: that of the file)")
    add("--format", default="", choices=KINDS, help="of the labels (default: found out)")
    pngs = "of COCO's panoptic PNGs (default: the one named as the JSON file)"
    add("--png-folder", default="", metavar="FOLDER", help=pngs)
    names = "names of values: a line for each from 0 on, or JSON or YAML of values and names"
    add("--names", type=user_path, metavar="FILE", help=names)
    turned = "what labels follow where EXIF turns images (default: found out by sizes)"
    add("--orientation", default="", choices=ORIENTATIONS, help=turned)
    held = "every N-th image is for validation, 0 for none (default: %(default)s)"
    add("--hold-out", type=int, default=5, metavar="N", help=held)
    add("--overwrite", action="store_true", help="replace files that are there")
    arguments = parser.parse_args(argv)
    if arguments.hold_out < 0 or arguments.hold_out == 1:
        parser.error(f"--hold-out: got {arguments.hold_out}, expected 2 or more, or 0 for none")
    return arguments


def request_of(arguments: argparse.Namespace) -> Request:
    """What is asked for; ValueError for an output file or a name that cannot be."""
    output = arguments.output
    if output.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--output: got {str(output)!r}, expected a name that ends in .yaml")
    name = arguments.name or re.sub(r"[^\w.-]+", "_", output.stem).lstrip(".-")
    if not re.fullmatch(r"\w[\w.-]*", name):
        expected = "expected letters, digits, '_', '-' and '.'"
        raise ValueError(f"--name: got {name!r}, {expected}, beginning with a letter or digit")
    return Request(
        arguments.images,
        arguments.labels,
        output,
        name,
        arguments.format,
        str(user_path(arguments.png_folder)) if arguments.png_folder else "",
        arguments.names,
        arguments.orientation,
        arguments.hold_out,
    )


def refuse_to_overwrite(paths: Sequence[Path]) -> None:
    """FileExistsError if one of the files is there."""
    if there := [str(path) for path in paths if path.exists()]:
        advice = "Choose another --output, or pass --overwrite"
        raise FileExistsError(f"--output: {', '.join(there)} would be overwritten. {advice}")


def report(request: Request, description: Description) -> str:
    """What was found, and what to do next."""
    found, images = description.found, description.images
    total = ", ".join(f"{count} in {request.name}_{split}" for split, count in images.items())
    lines = [f"{sum(images.values())} images with labels ({description.format}): {total}"]
    width = max(len(str(one.key)) for one in found.classes)
    lines += [
        f"  {one.key!s:>{width}}  {one.name}  ({one.remark})" for one in found.classes[:SHOWN]
    ]
    if len(found.classes) > SHOWN:
        lines.append(f"  … and {len(found.classes) - SHOWN} more, see the file")
    lines += [f"note: {line}" for line in (*description.left_out, *found.notes)]
    file = shlex.quote(str(request.output))
    if not found.named:
        lines.append(f"next: name the classes in {file}: the words are what the model is asked")
    lines.append(f"then: hyperclip-check-datasets {file} --histogram")
    lines.append(f"then: {train_command(request, len(found.names), 'val' in images)}")
    return "\n".join(lines)


def train_command(request: Request, classes: int, held_out: bool) -> str:
    """A command that trains photo-mini on the dataset."""
    test = f"['{request.name}_val']" if held_out else "[]"
    files = f"[{str(request.output)!r}]"
    words = [
        "hyperclip-train", "--config-file", "configs/photos/mini.yaml",
        "DATASETS.FILES", files, "DATASETS.TRAIN", f"['{request.name}_train']",
        "DATASETS.TEST", test, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(classes),
        "OUTPUT_DIR", f"output/{request.name}",
    ]  # fmt: skip
    return " ".join(quoted(word) for word in words)


def quoted(word: str) -> str:
    """A word of a command line, in double quotes where these are enough."""
    if re.fullmatch(r"[\w./\[\]', -]+", word) and shlex.quote(word) != word:
        return f'"{word}"'
    return shlex.quote(word)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Look, check and write the dataset file with its lists, or nothing at all."""
    arguments = parse_arguments(argv)
    request = request_of(arguments)
    if not arguments.overwrite:
        refuse_to_overwrite([request.output])
    description = describe_dataset(request)
    if not arguments.overwrite:
        refuse_to_overwrite(list(description.files))
    for path, text in description.files.items():
        write_text(path, text)
    sys.stdout.write(f"{report(request, description)}\n")
    return 0
