"""run.json: what decides the results in a folder, for ``--resume`` to add none of another kind."""

import argparse
import contextlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from .. import __version__
from ..config import output_keys, plain_settings
from ..evaluation.kept_rows import named_contents
from ..evaluation.paper_figures import NO_INFLUENCE
from ..results import Writer
from ..runtime.files import read_json, write_text
from ..segmenter import Question
from .demo_inputs import Source, result_files

logger = logging.getLogger("hyperclip.demo")

FILE = "run.json"

NO_DIFFERENCE = (*NO_INFLUENCE, "MODEL.DEVICE")
"""How keys begin that do not decide what is in the image."""

MOST_NAMED = 5
"""Differences that a line names at most."""


def describe_run(cfg: CfgNode, question: Question, arguments: argparse.Namespace) -> dict[str, Any]:
    """What decides the results: config keys, files that they name by content, classes, options."""
    keys = plain_settings(cfg)
    settings = {key: value for key, value in keys.items() if not key.startswith(NO_DIFFERENCE)}
    for key in output_keys():
        settings.pop(key, None)
    for key, mark in named_contents(cfg).items():
        if not key.startswith(NO_DIFFERENCE):
            settings[key] = f"sha256:{mark}"
    options = {
        "--vocabulary": question.vocabulary.classes,
        "--negatives": [*question.vocabulary.background, *question.vocabulary.negatives],
        "--background": question.background,
        "--threshold": arguments.threshold,
        "--save": sorted(arguments.save),
        "--every": arguments.every,
    }
    return json.loads(json.dumps({"hyperclip": __version__, **options, **settings}, default=str))


def still_to_do(
    folder: Path,
    run: dict[str, Any],
    sources: list[Source],
    kinds: Iterable[str],
    writers: Sequence[Writer] = (),
) -> list[Source]:
    """The sources that an earlier run, which this one goes on with, has not done.

    A source is done if all its results are there, newer than itself and than the run's start, and
    every writer has it.
    ValueError for results of a run with other settings, or without a run.json.
    """
    file, kinds = folder / FILE, tuple(kinds)
    if not file.exists():
        _require_no_results(folder, sources, kinds)
        return sources
    before = read_json(file, "--resume")
    if not isinstance(before, dict):
        raise ValueError(f"--resume: {file} is not what the demo writes. Choose another --output")
    if differing := differences(before, run):
        more = f" and {len(differing) - MOST_NAMED} more" if len(differing) > MOST_NAMED else ""
        what = "; ".join(differing[:MOST_NAMED]) + more
        advice = "Give the same again, choose another --output, or leave --resume out"
        raise ValueError(f"--resume: {folder} is of a run with other settings: {what}. {advice}")
    start = file.stat().st_mtime_ns
    return [
        source
        for source in sources
        if not (
            is_done(folder, source, kinds, start)
            and all(writer.has(source.name) for writer in writers)
        )
    ]


def note_start(folder: Path, run: dict[str, Any], resume: bool) -> None:
    """Write run.json, whose time is the run's start; one that is gone on with keeps its own. A line
    says so where the folder has results of other settings, which stay unless they are replaced.
    """
    file = folder / FILE
    if file.exists() and not resume:
        with contextlib.suppress(ValueError):  # a damaged one is replaced
            before = read_json(file, "--output")
            if isinstance(before, dict) and (differing := differences(before, run)):
                what = "results of an earlier run with other settings stay beside the new ones"
                logger.warning("%s: %s (%s)", folder, what, differing[0])
    if not (resume and file.exists()):
        write_text(folder / FILE, json.dumps(run, indent=1) + "\n")


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two runs, each in some words."""
    keys = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    return [f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}" for key in keys]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_done(folder: Path, source: Source, kinds: Iterable[str], start: int) -> bool:
    """Whether all results of a source are there, written after ``start`` (nanoseconds) and after
    the source was changed last.
    """
    oldest = max(start, source.path.stat().st_mtime_ns)
    targets = [folder / name for name in result_files(source, kinds)]
    return all(path.exists() and path.stat().st_mtime_ns >= oldest for path in targets)


def _require_no_results(folder: Path, sources: list[Source], kinds: tuple[str, ...]) -> None:
    for source in sources:
        for name in result_files(source, kinds):
            if (folder / name).exists():
                problem = f"{folder} has {name}, but no {FILE} that says how it was made"
                raise ValueError(f"--resume: {problem}. Choose another --output")
