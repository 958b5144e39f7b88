"""Write a checkpoint's model alone, in float16, as safetensors: a file to hand on.

python tools/shrink_checkpoint.py output/photos/mini/model_final.pth photo_mini.safetensors
"""

import argparse

from hyperclip.checkpoints.shrinking import shrink_checkpoint
from hyperclip.runtime.program import program_parser, run_program


def main() -> None:
    parser = program_parser(__doc__)
    parser.add_argument("checkpoint", metavar="FILE")
    parser.add_argument("output", metavar="FILE.safetensors")
    arguments: argparse.Namespace = parser.parse_args()
    shrink_checkpoint(arguments.checkpoint, arguments.output)


if __name__ == "__main__":
    run_program(main)
