"""Measure hyperbolic radii of names, images and patches, before and after fine-tuning.

    hyperclip-analyze-radius --config-file configs/quickstart/hyperclip.yaml \\
        --weights output/quickstart/hyperclip --dataset tiny_val_seen --output output/radius
    hyperclip-analyze-radius --config-file configs/vitb_384_hyperbolic.yaml \\
        --weights model_final.pth --vocabulary "dog; truck; road" --output output/radius

--weights takes checkpoints, in their order, or the folder of a training, whose checkpoints are
taken by their iterations; before them comes CLIP as it was pre-trained. Without --dataset and
--input the names alone are measured. With a dataset's truth images and patches have classes, too.

The radius of a vector v is the distance of exp0(v) from the origin of the ball: (2 / sqrt(c))
artanh(sqrt(c) |exp0(v)|) = 2 |v|, whatever the curvature c. Measured are embeddings before they are
normalised to unit length, block by block through the last norm and the projection, and the rows of
the attention weights. "saturated" counts the vectors at the "cap", where float arithmetic holds
points back from the ball's boundary and this identity ends.

OUTPUT gets radius.csv and radius.png (the paper's figure: how radii are distributed from image
level to pixel level), radius_layers.png, radius_classes.png, radius_iterations.png and
radius_ball.png (a two-dimensional view of the Poincare ball).
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode

from ..adapters.base import AdapterOptions
from ..analysis import radius, radius_figures
from ..analysis.figures import save_figure
from ..analysis.radius_rows import Measured, rows_of, summary, to_csv
from ..checkpoints.checkpointer import read_checkpoint, require_file
from ..config.key_rules import options_of
from ..config.keys import load_config
from ..labels import NO_CLASS
from ..load import build_system, check_system, load_system
from ..runtime import files, memory, program
from ..segmenter import Segmenter
from . import register_systems
from .inspected import Inspected, add_inputs, inputs_of, words_of

BEFORE = "pre-trained CLIP"
Checkpoint = tuple[str, int | None, str]
"""Name, iterations of its training if the file says so, and file; "" for CLIP alone."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program.program_parser(__doc__)
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE")
    given = "checkpoints, or the folder of a training; none for pre-trained CLIP alone"
    add("--weights", nargs="+", default=[], metavar="FILE", help=given)
    add_inputs(parser, needed=False)
    add("--output", required=True, type=files.user_path, help="folder of the table and figures")
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser.parse_args(argv)


def checkpoints_of(given: Sequence[str]) -> list[Checkpoint]:
    """CLIP alone, then the checkpoints of the command line; those of a folder by their iterations,
    each iteration once.

    Raises:
        FileNotFoundError: no such file, or none in a folder. ValueError: one that cannot be read.
    """
    found: list[Checkpoint] = [(BEFORE, 0, "")]
    for name in given:
        folder = files.local_path(name)
        if not folder.is_dir():
            require_file(name)
            found.append(_described(name))
            continue
        inside: dict[int | str, Checkpoint] = {}
        for path in sorted(folder.glob("model_*.pth")):
            one = _described(str(path))
            inside.setdefault(one[1] if one[1] is not None else one[0], one)
        if not inside:
            expected = "expected the folder of a training, with model_*.pth"
            raise FileNotFoundError(f"--weights: no checkpoint in {name!r}, {expected}")
        found += sorted(inside.values(), key=lambda one: (one[1] is None, one[1] or 0))
    taken: dict[str, Checkpoint] = {}
    for name, iteration, file in found:  # names are unique
        taken[name if name not in taken else f"{name} ({file})"] = (name, iteration, file)
    return [(name, iteration, file) for name, (_, iteration, file) in taken.items()]


def _described(file: str) -> Checkpoint:
    path = files.local_path(file)
    numbered = re.fullmatch(r"model_(\d{7})", path.stem)
    content = {} if numbered else read_checkpoint(path)
    trainer = content.get("trainer")
    last = content.get("iteration", trainer.get("iteration") if trainer else None)
    if numbered:
        last = int(numbered[1])
    return path.stem, last + 1 if isinstance(last, int) else None, file


def system_of(cfg: CfgNode, file: str) -> Segmenter:
    """The system of a config with a checkpoint, its adapters in the weights; with CLIP's own for
    "", whatever its head needs.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = file
    return load_system(cfg) if file else build_system(cfg).eval()


def measure(system: Segmenter, inspected: Inspected) -> dict[str, radius.Radii]:
    """All radii of a system, by kind."""
    if system.text is None:
        raise ValueError(f"{type(system).__name__} has no text embeddings, whose radii are asked")
    found = [radius.of_names(system, system.text, inspected.vocabulary)]
    if inspected.pictures:
        read = [picture() for picture in inspected.pictures.values()]
        images = [torch.from_numpy(image.transpose(2, 0, 1).copy()) for image, _ in read]
        truths = [of_classes(truth, inspected) for _, truth in read if truth is not None]
        labels = truths if len(truths) == len(read) else None
        found += radius.of_images(system, images, labels, len(inspected.vocabulary))
    return {one.kind: one for one in (*found, *radius.of_weights(system))}


def of_classes(truth: np.ndarray, inspected: Inspected) -> torch.Tensor:
    """The truth (H, W) of a dataset without its background, whose label is its last one and is
    none of the words asked.
    """
    background = inspected.spec is not None and inspected.spec.background != "none"
    last = len(inspected.names) - 1 if background else len(inspected.names)
    return torch.from_numpy(np.where(truth < last, truth, NO_CLASS))


def main(argv: Sequence[str] | None = None) -> int | None:
    """Check what is given, measure checkpoint by checkpoint, write the table and the figures."""
    arguments = parse_arguments(argv)
    register_systems()
    files.need_output_folder(arguments.output, "--output")
    cfg = load_config(arguments.config_file, arguments.opts)
    check_system(cfg)
    if cfg.MODEL.WEIGHTS and not arguments.weights:
        arguments.weights = [cfg.MODEL.WEIGHTS]
    if arguments.dataset or arguments.input:
        inspected = inputs_of(cfg, arguments)
    else:
        inspected = Inspected(words_of(cfg, arguments.vocabulary), {})
    checkpoints = checkpoints_of(arguments.weights)
    memory.keep_freed_memory()
    measured = [
        Measured(name, iteration, measure(system_of(cfg, file), inspected))
        for name, iteration, file in checkpoints
    ]
    write(measured, inspected, cfg, arguments.output)
    return 0


def write(measured: Sequence[Measured], inspected: Inspected, cfg: CfgNode, output: Path) -> None:
    """The table and all figures, and a summary on the screen."""
    options = options_of(AdapterOptions, cfg.MODEL.ADAPTER)
    curvatures = {encoder: options.curvature(encoder) for encoder in ("text", "vision")}
    rows = list(rows_of(measured, inspected.vocabulary.names, curvatures))
    files.write_text(output / "radius.csv", to_csv(rows))
    kinds = radius_figures.kinds_of(rows)
    figures = {
        "radius": radius_figures.densities(measured, kinds),
        "radius_layers": radius_figures.by_layer(rows),
        "radius_classes": radius_figures.by_class(rows),
        "radius_iterations": radius_figures.by_iteration(rows),
        "radius_ball": radius_figures.ball(measured, kinds),
    }
    for name, figure in figures.items():
        save_figure(figure, output / f"{name}.png")
    sys.stdout.write(f"{summary(rows)}\nWritten to {output}: radius.csv, {', '.join(figures)}\n")
