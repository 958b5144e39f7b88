"""Draw input, truth, prediction and legend of images, and what is behind an answer.

    python tools/visualize.py --config-file configs/quickstart/hyperclip.yaml \\
        --dataset tinyscenes_val_unseen --output output/drawn --limit 8 \\
        --opts MODEL.WEIGHTS output/quickstart/hyperclip/model_final.pth
    python tools/visualize.py --config-file configs/quickstart/cliper.yaml --input photos/ \\
        --vocabulary "dog; truck; road" --output output/drawn --show fused,refiner,margin,entropy

--show adds NAME_WHAT.png for each image:

cost: of some classes the cosine before aggregation, the norm of what aggregation adds, and the
score after the decoder. attention: how much each class takes of every class in aggregation; linear
attention builds no such map, so it is the kernel's phi(q) phi(k) / sum, phi = elu + 1. Both need
HyperCLIP's head, whose view of the whole image is shown. fused: how much the patch at a point takes
of every patch, which needs CLIPer. refiner: where a score at a point is carried to, which needs a
refiner. margin: best less second best score. entropy: of the scores over their sum, 0 where one
class has it all, 1 where all score the same. These are for any system.

--sheet also puts all pictures of a kind on one: sheet.png, sheet_WHAT.png.
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from ..analysis import inside, inside_figures
from ..analysis.figures import save_figure
from ..config.keys import load_config
from ..evaluation.evaluator import to_dataset_labels
from ..load import check_system
from ..predictor import EncodedImage, Predictor
from ..runtime import files, program
from ..segmenter import Question
from ..visualization import comparison, overlay
from ..wrapper import unwrapped
from . import register_systems
from .inspected import Inspected, add_inputs, check_names, inputs_of

SHOWN_CLASSES = 3
"""So many classes have their costs shown, those with the most pixels, unless some are named."""


@dataclass(frozen=True)
class Look:
    """One image with its answer.

    Attributes:
        image: uint8 RGB (H, W, 3). points: (column, row) that maps are of. classes: whose costs are
            shown, None for the largest.
    """

    predictor: Predictor
    inspected: Inspected
    encoded: EncodedImage
    image: np.ndarray
    labels: np.ndarray
    points: list[inside.Point]
    classes: list[int] | None

    @property
    def system(self) -> Any:
        """The system that answered."""
        return self.predictor.model


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program.program_parser(__doc__)
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE")
    add_inputs(parser, needed=True)
    add("--output", required=True, type=files.user_path, help="folder of the images")
    add("--show", default="", metavar="WHAT,…", help=f"any of {', '.join(SHOW)}")
    place = "pixel that fused and refiner are of; several times; default: the image's middle"
    add("--at", action="append", default=[], metavar="COLUMN,ROW", help=place)
    chosen = "whose cost is shown; several times; default: the answer's largest"
    add("--class", dest="classes", action="append", default=[], metavar="NAME", help=chosen)
    add("--sheet", action="store_true", help="put all pictures of a kind on one, too")
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser.parse_args(argv)


def chosen_kinds(text: str) -> list[str]:
    """What --show names, each once; ValueError for what there is not."""
    kinds = list(dict.fromkeys(filter(None, (kind.strip() for kind in text.split(",")))))
    if unknown := [kind for kind in kinds if kind not in SHOW]:
        raise ValueError(f"--show: got {unknown[0]!r}, expected any of {', '.join(SHOW)}")
    return kinds


def points_of(texts: Sequence[str]) -> list[inside.Point]:
    """The pixels of --at; ValueError for what is none."""
    points = []
    for text in texts:
        parts = text.split(",")
        if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
            raise ValueError(f"--at: got {text!r}, expected COLUMN,ROW of a pixel, such as 48,30")
        points.append((int(parts[0]), int(parts[1])))
    return points


def check_kinds(kinds: Sequence[str], predictor: Predictor, inspected: Inspected) -> None:
    """ValueError, before the first image, for what the system does not have."""
    system = predictor.model
    for kind in kinds:
        if kind in ("cost", "attention"):
            inside.require_costs(system, f"--show {kind}")
        if kind == "fused":
            inside.require_affinity(system, "--show fused")
        if kind in ("margin", "entropy") and len(inspected.vocabulary) < 2:
            raise ValueError(f"--show {kind}: got one class, expected two or more to choose among")
        if kind == "refiner" and not has_refiner(system):
            name = type(unwrapped(system)).__name__
            raise ValueError(
                f"--show refiner: got {name} without a refiner; name one by TEST.REFINER.NAME, or "
                "MODEL.CLIPER.REFINER.NAME of CLIPer"
            )


def has_refiner(system: Any) -> bool:
    """Whether the system itself or a stage behind it refines scores."""
    stages = getattr(system, "stages", ())
    own = getattr(unwrapped(system), "refiner", None)
    return own is not None or any(isinstance(stage, inside.Refine) for stage in stages)


def _costs(look: Look) -> tuple[inside.Costs, list[int]]:
    """Costs of an image, and the class of each prompt."""
    vocabulary, system = look.inspected.vocabulary, look.system
    costs = inside.costs_of(system, look.encoded.encoded, vocabulary)
    class_of = unwrapped(system).class_of(vocabulary)
    classes = costs.prompts if class_of is None else class_of[costs.prompts]
    return costs, classes.tolist()


def draw_costs(look: Look) -> Figure:
    """Cost slices of the classes that are asked for, or that have the most pixels."""
    costs, classes = _costs(look)
    if look.classes is None:
        found, areas = np.unique(look.labels[look.labels >= 0], return_counts=True)
        wanted = found[np.argsort(-areas, kind="stable")][:SHOWN_CLASSES].tolist() or [0]
    else:
        wanted = look.classes
    names = look.inspected.vocabulary.names
    rows = [classes.index(i) for i in wanted if i in classes]  # names may be there twice
    if not rows:
        asked = ", ".join(names[i] for i in wanted)
        raise ValueError(f"--class: MAX_CLASSES left out {asked}, as less probable ones")
    return inside_figures.cost_slices(look.image, costs, [names[i] for i in classes], rows)


def draw_attention(look: Look) -> Figure:
    """Class-by-class attention."""
    costs, classes = _costs(look)
    names = look.inspected.vocabulary.names
    return inside_figures.attention_maps(costs, [names[i] for i in classes])


def draw_fused(look: Look) -> Figure:
    """Fused attention of each point."""
    found = [
        inside.fused_attention(look.system, look.encoded.encoded, point, look.encoded.size)
        for point in look.points
    ]
    return inside_figures.point_maps(look.image, found, look.points, "fused attention from")


def draw_refiner(look: Look) -> Figure:
    """Where the last refiner carries a score at each point to."""
    refinement = inside.refinements(look.system, look.encoded.encoded)[-1]
    coarse, size = _maps(look).coarse(), look.encoded.size
    found = [inside.spread(refinement, point, size, coarse) for point in look.points]
    return inside_figures.point_maps(look.image, found, look.points, "refiner: a score at")


def draw_margin(look: Look) -> Figure:
    """Best less second best score of each pixel."""
    margin, _ = inside.certainty(_maps(look), look.encoded.size)
    return inside_figures.pixel_map(look.image, margin, "margin: best less second score")


def draw_entropy(look: Look) -> Figure:
    """Entropy of the scores of each pixel."""
    _, entropy = inside.certainty(_maps(look), look.encoded.size)
    title = "entropy: 0 sure, 1 all alike"
    return inside_figures.pixel_map(look.image, entropy, title, (0.0, 1.0))


def _maps(look: Look) -> Any:
    question = Question(look.inspected.vocabulary)
    return look.system.score(look.encoded.encoded, question, look.encoded.size)


SHOW: dict[str, Callable[[Look], Figure]] = {
    "cost": draw_costs,
    "attention": draw_attention,
    "fused": draw_fused,
    "refiner": draw_refiner,
    "margin": draw_margin,
    "entropy": draw_entropy,
}
"""What --show draws, by name."""


def draw_answer(look: Look, truth: np.ndarray | None) -> Image.Image:
    """Input, truth if there is one, prediction and legend."""
    names, spec = look.inspected.names, look.inspected.spec
    if truth is None or spec is None:
        return Image.fromarray(overlay(look.image, look.labels, names))
    labels = to_dataset_labels(torch.from_numpy(look.labels), len(names), spec.background).numpy()
    return Image.fromarray(comparison(look.image, truth, labels, names))


def inspect(
    predictor: Predictor, inspected: Inspected, name: str, arguments: argparse.Namespace
) -> tuple[Look, np.ndarray | None]:
    """Read, encode and answer one image; ValueError for a point outside of it."""
    image, truth = inspected.pictures[name]()
    height, width = image.shape[:2]
    points = points_of(arguments.at) or [(width // 2, height // 2)]
    for column, row in points:
        if column >= width or row >= height:
            size = f"{name} has {width} x {height} pixels"
            raise ValueError(f"--at: got {column},{row}, but {size}, counted from 0")
    encoded = predictor.encode(image)
    spec, vocabulary = inspected.spec, inspected.vocabulary
    by_threshold = spec is not None and spec.background == "threshold"
    background = "threshold" if by_threshold else "own"
    answer = predictor.answer(encoded, Question(vocabulary, background))
    classes = check_names(arguments.classes, vocabulary, "--class") or None
    return Look(predictor, inspected, encoded, image, answer.labels, points, classes), truth


def main(argv: Sequence[str] | None = None) -> int | None:
    """Check what is asked, then draw image by image."""
    arguments = parse_arguments(argv)
    register_systems()
    kinds = chosen_kinds(arguments.show)
    points_of(arguments.at)
    files.need_output_folder(arguments.output, "--output")
    cfg = load_config(arguments.config_file, arguments.opts)
    check_system(cfg)
    inspected = inputs_of(cfg, arguments)
    check_names(arguments.classes, inspected.vocabulary, "--class")
    predictor = Predictor.from_config(cfg)
    check_kinds(kinds, predictor, inspected)
    for name in inspected.pictures:
        look, truth = inspect(predictor, inspected, name, arguments)
        drawn = draw_answer(look, truth)
        files.write_atomically(arguments.output / f"{name}.png", partial(drawn.save, format="PNG"))
        for kind in kinds:
            with predictor.computing():
                figure = SHOW[kind](look)
            save_figure(figure, arguments.output / f"{name}_{kind}.png")
    if arguments.sheet and inspected.pictures:
        for ending in ("", *(f"_{kind}" for kind in kinds)):
            write_sheet(arguments.output, list(inspected.pictures), ending)
    return 0


def write_sheet(folder: Path, names: Sequence[str], ending: str) -> None:
    """All pictures of one kind, which are in the folder, as sheet.png with that ending."""
    pictures = {name: Image.open(folder / f"{name}{ending}.png") for name in names}
    sheet = inside_figures.contact_sheet(pictures)
    files.write_atomically(folder / f"sheet{ending}.png", partial(sheet.save, format="PNG"))
