"""Write the CLIP of a training, its adapters merged, as a folder in open_clip's format, or as a
checkpoint in OpenAI's.

    hyperclip-export-clip --config-file configs/quickstart/hyperclip_trained.yaml \\
        --output output/quickstart/hyperclip_clip

MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED of any config takes the folder, and so does open_clip (as
local-dir:FOLDER). With --format openai the output is a file, a state dict with OpenAI's names,
which holds vision transformers with the quick GELU alone: MODEL.CLIP_WEIGHTS, clip.load and
open_clip take it. KEY VALUE pairs may follow, MODEL.WEIGHTS FILE say.
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import argparse
import sys
from collections.abc import Sequence

from ..config import load_config
from ..load import load_system
from ..pretrained.clip_folder import clip_config, require_free, save_clip
from ..pretrained.openai_checkpoint import save_openai
from ..runtime.files import user_path
from ..runtime.program import program_parser
from . import register_systems


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program_parser(__doc__)
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="of the training")
    output = "a folder that is new or empty; of openai a new file"
    add("--output", required=True, type=user_path, metavar="PATH", help=output)
    add("--format", default="open_clip", choices=("open_clip", "openai"), help="(%(default)s)")
    add("opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="for the config")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Load the model, and write the folder in full or not at all."""
    register_systems()
    arguments = parse_arguments(argv)
    cfg = load_config(arguments.config_file, arguments.opts)
    if arguments.format == "openai":
        file = save_openai(load_system(cfg), arguments.output)
        sys.stdout.write(f"Written to {file}: for MODEL.CLIP_WEIGHTS\n")
        return 0
    require_free(arguments.output)
    clip_config(cfg)
    folder = save_clip(load_system(cfg), cfg, arguments.output)
    sys.stdout.write(f"Written to {folder}: for MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED\n")
    return 0
