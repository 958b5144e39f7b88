"""Tell what a model makes of the names of a vocabulary, before any image.

    hyperclip-vocabulary names.txt
    hyperclip-vocabulary "dog, puppy; wolf; street"
    hyperclip-vocabulary ade150 --config-file configs/photos/mini.yaml --json ade150.json

The vocabulary is a file, a built-in list or text in which ";" separates classes and "," synonyms.
The report: the longest prompts against the tokens that the text tower takes; names with the same
tokens; names that embed almost alike, of which the model will mix up the pixels; names that are far
from all others, which may be misspelled or meant otherwise; and names of a built-in list that are
near the classes and none of them, to be asked as negatives ("--negatives" of the demo). Cosines are
the model's own: compare them within a model alone.
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate

from .. import zoo
from ..clip.words_report import ReportOptions, WordsReport, make_report
from ..config.keys import load_config
from ..load import load_model
from ..runtime.files import local_path, need_output_folder, user_path, write_text
from ..runtime.program import program_parser
from ..vocabulary import Vocabulary, load_vocabulary
from ..vocabulary.vocabulary import LISTS
from . import register_systems


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program_parser(__doc__)
    add = parser.add_argument
    add("vocabulary", metavar="VOCABULARY", help="a file, a built-in list, or names")
    add("--config-file", default="", metavar="FILE", help="of the model (default: the best here)")
    near = "cosine from which two names count as the same (default: %(default)s)"
    add("--near", type=float, default=ReportOptions.near, metavar="COSINE", help=near)
    far = "standard deviations below the mean from which a name is far (default: %(default)s)"
    add("--far", type=float, default=ReportOptions.far, metavar="N", help=far)
    negatives = "how many negatives to suggest (default: %(default)s)"
    add("--negatives", type=int, default=ReportOptions.negatives, metavar="N", help=negatives)
    suggested = "built-in list or file of the names to suggest (default: %(default)s)"
    add("--suggest-from", default="coco_stuff", metavar="VOCABULARY", help=suggested)
    add("--json", type=user_path, metavar="FILE", help="write the report to this file, too")
    rest = argparse.REMAINDER
    add("--opts", nargs=rest, default=[], metavar="KEY VALUE", help="on top of the config")
    return parser.parse_args(argv)


def choose_vocabulary(source: str) -> Vocabulary:
    """A file or a built-in list, or the names that a text has; raises as these do."""
    is_file = Path(source).suffix.lower() in (".json", ".txt") or local_path(source).is_file()
    if is_file or (LISTS / f"{source}.json").is_file():
        return load_vocabulary(source)
    return Vocabulary.from_text(source)


def report_options(arguments: argparse.Namespace) -> ReportOptions:
    """What counts as near and far; ValueError as by :class:`ReportOptions`."""
    return ReportOptions(arguments.near, arguments.far, arguments.negatives)


def chosen_config(arguments: argparse.Namespace) -> CfgNode:
    """The config of the command line, or of the best model on this machine; raises as
    :func:`load_config` and :func:`hyperclip.zoo.best_here` do.
    """
    if arguments.config_file:
        return load_config(arguments.config_file, arguments.opts)
    model = zoo.best_here()
    return load_config(model.config, [*model.overrides, *arguments.opts])


def shown(report: WordsReport) -> str:
    """The report as text."""
    of = f"vocabulary {report.vocabulary!r}: {report.names} classes"
    longest, tokens = report.longest[0]
    parts = [f"{of}; the longest prompt has {tokens} of {report.context} tokens: {longest!r}"]
    titles: dict[str, tuple[list[str], Sequence[Sequence[Any]]]] = {
        "same tokens, so one embedding": (["name", "name"], report.same),
        "almost the same embedding": (["name", "name", "cosine"], report.near),
        "far from all other names": (["name", "nearest", "cosine"], report.far),
        "near, and none of the classes: negatives": (["name", "near", "cosine"], report.negatives),
    }
    for title, (columns, rows) in titles.items():
        table = tabulate(rows, columns, floatfmt=".3f", tablefmt="github")
        parts.append(f"{title} ({len(rows)}):\n{table}" if rows else f"{title}: none")
    if report.negatives:
        words = "; ".join(name for name, _, _ in report.negatives)
        parts.append(f'to leave these out of the answers: --negatives "{words}"')
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read the names, load the model, and write the report."""
    arguments = parse_arguments(argv)
    options, vocabulary = report_options(arguments), choose_vocabulary(arguments.vocabulary)
    others = load_vocabulary(arguments.suggest_from).names
    if arguments.json is not None:
        need_output_folder(arguments.json.parent, "--json")
    register_systems()
    system = load_model(chosen_config(arguments))
    if system.text is None:
        raise ValueError(f"{type(system).__name__} has no embeddings of names to report")
    report = make_report(system.clip, system.text, vocabulary, others, options)
    if arguments.json is not None:
        write_text(
            arguments.json, json.dumps(report.as_dict(), ensure_ascii=False, indent=1) + "\n"
        )
    sys.stdout.write(f"{shown(report)}\n")
    return 0
