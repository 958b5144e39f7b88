"""Write a model as files for other runtimes: its words can change, and torch is not needed.

    hyperclip-export --config-file configs/quickstart/hyperclip_trained.yaml \\
        --output output/exported
    hyperclip-export --config-file configs/quickstart/cliper_fusion.yaml --output output/cliper \\
        --format onnx --names "dog; road, street; sky"

The folder holds the image encoder, the head, to which the text embeddings of any number of classes
are an input, the text tower, its tokenizer, and manifest.json, which says what is done around them.
demo/onnx_demo.py segments images with it by numpy, Pillow and onnxruntime alone. KEY VALUE pairs
may follow, MODEL.WEIGHTS FILE say.
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import argparse
import sys
from collections.abc import Sequence

from ..config import load_config
from ..export import FORMATS, ExportOptions, check_config, export_folder
from ..load import load_system
from ..pretrained.clip_folder import require_free
from ..runtime.files import user_path
from ..runtime.program import program_parser
from ..vocabulary import Vocabulary
from . import register_systems


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program_parser(__doc__)
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="of the model")
    add("--output", required=True, type=user_path, metavar="FOLDER", help="that is new or empty")
    chosen = "onnx for onnxruntime, pt2 for torch.export.load (default: both)"
    add("--format", action="append", choices=list(FORMATS), help=chosen)
    names = "what is segmented where nobody gives a vocabulary, 'dog; road, street' say"
    add("--names", default="", metavar="WORDS", help=names)
    add("opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="for the config")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Load the model, and write the folder in full or not at all."""
    register_systems()
    arguments = parse_arguments(argv)
    cfg = load_config(arguments.config_file, arguments.opts)
    require_free(arguments.output)
    check_config(cfg)
    names = Vocabulary.from_text(arguments.names) if arguments.names else None
    options = ExportOptions(tuple(arguments.format or FORMATS), names)
    manifest = export_folder(load_system(cfg), cfg, arguments.output, options)
    size = sum(file["bytes"] for file in manifest["files"].values()) / 1e6
    formats = ", ".join(options.formats)
    sys.stdout.write(f"Written to {arguments.output}: {formats}, {size:.1f} MB\n")
    return 0
