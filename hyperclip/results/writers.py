"""Results of a folder of images as files: what ``demo.py --format`` writes beside its pictures."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .answer import Answer
from .each_image import ArrayWriter, CityscapesWriter, LabelMeWriter, VocWriter
from .whole_folder import CocoWriter, CvatWriter, LabelStudioWriter, PanopticWriter, TableWriter
from .writer import Run, Writer

WRITERS: dict[str, type[Writer]] = {
    writer.format: writer
    for writer in (
        CocoWriter,
        PanopticWriter,
        LabelMeWriter,
        LabelStudioWriter,
        CvatWriter,
        VocWriter,
        CityscapesWriter,
        TableWriter,
        ArrayWriter,
    )
}
"""What writes each format."""


def build_writers(
    formats: str,
    folder: Path,
    names: Sequence[str],
    *,
    instances: bool = False,
    smallest: int = 1,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> list[Writer]:
    """Writers of formats, "coco,labelme" say, into a folder. Nothing is written yet.

    Args:
        names: the classes of all answers.
        instances, smallest: as :meth:`Answer.regions`, for formats that list regions.
        settings: values of JSON that results depend on, too, and that a run has to repeat to go on.
        resume: keep what an earlier run wrote into the folder, see :meth:`Writer.has`; else files
            are written anew.

    Raises:
        ValueError: an unknown format, one that cannot hold these names or so many, or an earlier
            run of other names or settings.
    """
    wanted = dict.fromkeys(name.strip() for name in formats.split(",") if name.strip())
    for name in wanted:
        if name not in WRITERS:
            near = difflib.get_close_matches(name, WRITERS, n=1)
            meant = f". Did you mean {near[0]}?" if near else ""
            raise ValueError(f"--format: got {name!r}, expected some of {list(WRITERS)}{meant}")
    if smallest < 1:
        raise ValueError(f"--smallest: got {smallest}, expected a number of pixels from 1 on")
    for name in wanted:
        for check in WRITERS[name].checks:
            check(names)
    run = Run(folder, names, instances, smallest, settings or {}, resume)
    return [WRITERS[name](run) for name in wanted]


def close_all(writers: Sequence[Writer]) -> None:
    """Write what is about all images, of every writer."""
    for writer in writers:
        writer.close()


def add_to_all(writers: Sequence[Writer], name: str, file_name: str, answer: Answer) -> None:
    """Give an image's answer to every writer."""
    for writer in writers:
        writer.add(name, file_name, answer)
