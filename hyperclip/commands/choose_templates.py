"""Choose templates for each class of a vocabulary by unlabelled images.

    hyperclip-choose-templates --config-file configs/photos/mini.yaml --input photos/ \\
        --vocabulary names.txt --output names_with_templates.json

The result is a class file with templates of its own for each class: those of `--templates` whose
predictions on the images have the lowest entropy where they predict the class. It goes wherever a
vocabulary does: `--vocabulary` of the demo, MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON. Labels are not
used. Images go through the model one after the other, and none is kept.
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import argparse
import sys
from collections.abc import Sequence

from ..clip.template_experts import TemplateEntropy, embed_each, with_experts
from ..predictor import Predictor
from ..runtime.files import need_output_folder, user_path
from ..runtime.program import program_parser
from ..vocabulary import TEMPLATES, Vocabulary, prompt_templates
from . import register_systems
from .demo_inputs import find_inputs
from .vocabulary import choose_vocabulary, chosen_config


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program_parser(__doc__)
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="of the model (default: the best here)")
    add("--input", nargs="+", required=True, metavar="FOLDER", help="folders or files of images")
    add("--vocabulary", required=True, help="a file, a built-in list, or names")
    add("--output", type=user_path, required=True, metavar="FILE.json", help="to be written")
    kinds = "the templates to choose from (default: %(default)s)"
    add("--templates", default="imagenet", choices=TEMPLATES, help=kinds)
    add("--top", type=int, default=4, metavar="N", help="of each class (default: %(default)s)")
    rest = argparse.REMAINDER
    add("--opts", nargs=rest, default=[], metavar="KEY VALUE", help="on top of the config")
    return parser.parse_args(argv)


def question_of(arguments: argparse.Namespace) -> tuple[Vocabulary, tuple[str, ...]]:
    """The vocabulary and the templates to choose from; ValueError for values that mean nothing."""
    templates = prompt_templates(arguments.templates)
    if not 1 <= arguments.top <= len(templates):
        kind = f"{len(templates)}, the templates of {arguments.templates!r}"
        raise ValueError(f"--top: got {arguments.top}, expected 1 to {kind}")
    if arguments.output.suffix != ".json":
        got = f"got {str(arguments.output)!r}"
        raise ValueError(f"--output: {got}, expected a name that ends in .json")
    vocabulary = choose_vocabulary(arguments.vocabulary)
    if len(vocabulary) < 2:
        raise ValueError(
            f"--vocabulary: got the class {vocabulary.names[0]!r} alone, which every template "
            "predicts everywhere; expected two or more"
        )
    return vocabulary, templates


def main(argv: Sequence[str] | None = None) -> int | None:
    """Look at all images, choose, and write the class file."""
    arguments = parse_arguments(argv)
    vocabulary, templates = question_of(arguments)
    images = list(find_inputs(arguments.input))
    need_output_folder(arguments.output.parent, "--output")
    register_systems()
    predictor = Predictor.from_config(chosen_config(arguments))
    system = predictor.model
    if system.text is None:
        raise ValueError(f"{type(system).__name__} has no embeddings of names to choose by")
    with predictor.computing():
        text = embed_each(system.clip, system.text.tokenizer, templates, vocabulary)
        entropy = TemplateEntropy(text, float(system.clip.logit_scale.exp()))
        for path in images:
            entropy.add(system.features(predictor.encode(path).encoded))
    experts = entropy.experts(arguments.top)
    with_experts(vocabulary, templates, experts).to_json(arguments.output)
    left = [name for name, own in zip(vocabulary.names, experts, strict=True) if not own]
    note = f"; never predicted, so with the model's templates: {', '.join(left)}" if left else ""
    chosen = f"{len(experts) - len(left)} of {len(experts)} classes have templates of their own"
    sys.stdout.write(f"{len(images)} images: {chosen}{note}\nWritten to {arguments.output}\n")
    return 0
