"""What the demo writes of each image and frame: overlay, labels, scores and the list of classes.

Shapes: T classes, H W image.
"""

import contextlib
import difflib
import json
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..clip import TextEmbedder
from ..data.image_plugins import need_plugin
from ..prediction import Prediction
from ..runtime import files
from ..visualization import label_image, map_palette, overlay, palette
from ..vocabulary import Vocabulary
from .demo_inputs import IMAGE_RESULTS, Source
from .demo_video import VideoReader

MOST_SCORES = 2**29
"""Scores of an image or frame at most: 2 GiB in float32, about 5 GiB while they are computed."""


def chosen_kinds(text: str) -> tuple[str, ...]:
    """The kinds of results that ``--save`` names, in order and once each; ValueError for one that
    is unknown.
    """
    kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split(",") if kind.strip()))
    for kind in kinds:
        if kind not in IMAGE_RESULTS:
            near = difflib.get_close_matches(kind, IMAGE_RESULTS, n=1)
            meant = f". Did you mean {near[0]}?" if near else ""
            raise ValueError(f"--save: got {kind!r}, expected some of {list(IMAGE_RESULTS)}{meant}")
    return kinds


def check_scores(sources: Sequence[Source], classes: int) -> None:
    """ValueError if the score maps of an image or a frame take too much memory. Only the first
    bytes of files are read.
    """
    for source in sources:
        width, height = pixel_size(source)
        if (count := width * height * classes) > MOST_SCORES:
            got = f"{source.path} has {width} x {height} pixels, with {classes} classes {count}"
            advice = "Ask for fewer classes, make it smaller, or leave scores out"
            what = f"{got} scores, expected at most {MOST_SCORES}"
            raise ValueError(f"--save scores: {what}. {advice}")


def pixel_size(source: Source) -> tuple[int, int]:
    """Width and height of a source; (0, 0) for what cannot be read, which is reported when its turn
    comes.
    """
    with contextlib.suppress(Exception):  # of any kind, whatever is damaged
        if source.is_video:
            with contextlib.closing(VideoReader(source.origin)) as reader:
                return reader.width, reader.height
        need_plugin(source.path, "image")
        with Image.open(source.path) as image:
            return image.size
    return 0, 0


class ClassList:
    """classes.json: the class and the colour of each index of the label maps, and what the model's
    embedder of names, if it has one, was asked.

    Args:
        resume: whether what the file notes of images of an earlier run stays.
    """

    def __init__(
        self, file: Path, vocabulary: Vocabulary, text: TextEmbedder | None, resume: bool = False
    ) -> None:
        self.file, self.colors = file, palette(len(vocabulary))
        self.classes: list[dict] = [
            {"index": i, "name": name, "color": self.colors[i].tolist()}
            for i, name in enumerate(vocabulary.names)
        ]
        if text is not None:
            for known, asked in zip(self.classes, text.asked(vocabulary), strict=True):
                known |= {"asked": asked, "synonyms": text.rule(vocabulary)}
        if resume and file.exists():
            for known, before in zip(self.classes, self._read(), strict=True):
                if "recolored" in before:
                    known["recolored"] = before["recolored"]
        self.write()

    def _read(self) -> list[dict]:
        classes = files.read_json(self.file, "--resume")
        names = [known["name"] for known in self.classes]
        whole = isinstance(classes, list) and all(isinstance(known, dict) for known in classes)
        if not whole or [known.get("name") for known in classes] != names:
            raise ValueError(f"--resume: {self.file} lists other classes. Choose another --output")
        return classes

    def write(self) -> None:
        """Write the file anew."""
        files.write_text(self.file, json.dumps(self.classes, indent=1) + "\n")

    def add(self, name: str, labels: np.ndarray) -> None:
        """Note the classes that have another colour in this image's results."""
        before = [known["recolored"] for known in self.classes if "recolored" in known]
        outdated = [colors.pop(name) for colors in before if name in colors]
        colors = map_palette(labels, len(self.classes))
        changed = np.flatnonzero((colors != self.colors).any(axis=1)).tolist()
        for i in changed:
            self.classes[i].setdefault("recolored", {})[name] = colors[i].tolist()
        if changed or outdated:
            self.write()


def save_prediction(
    output: Path,
    name: str,
    image: np.ndarray,
    prediction: Prediction,
    kinds: Collection[str] = ("overlay", "labels"),
) -> None:
    """Write the results of one image: those of the ``kinds``; OSError if they cannot be written."""
    labels, names = prediction.labels, prediction.names
    targets = {kind: output / IMAGE_RESULTS[kind].format(name) for kind in kinds}
    if "overlay" in targets:
        painted = Image.fromarray(overlay(image, labels, names))
        files.write_atomically(targets["overlay"], lambda p: painted.save(p, format="PNG"))
    if "labels" in targets:
        save_labels(targets["labels"], labels, len(names))
    if "scores" in targets:
        save_scores(targets["scores"], prediction)


def save_labels(target: Path, labels: np.ndarray, classes: int, steady: bool = False) -> None:
    """Write a label map, see :func:`label_image`; OSError if it cannot be written."""
    index = label_image(labels, classes, steady)
    files.write_atomically(target, lambda path: index.save(path, format="PNG"))


def save_scores(target: Path, prediction: Prediction) -> None:
    """Write the scores of all classes, float16 (T, H, W), and their names, for ``numpy.load``."""
    if prediction.scores is None:
        raise ValueError(f"{target.name}: the prediction has no scores; ask for them")
    scores, names = prediction.scores.astype(np.float16), np.array(prediction.names, np.str_)

    def write(path: Path) -> None:
        with path.open("wb") as file:  # NumPy would add a suffix to a path
            np.savez_compressed(file, scores=scores, names=names)

    files.write_atomically(target, write)


def largest_classes(prediction: Prediction) -> str:
    """Names of the three largest classes, largest first, and how many more there are."""
    rows = [row for row in prediction.to_table() if row.pixels]
    rows.sort(key=lambda row: -row.pixels)
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return ", ".join(row.name for row in rows[:3]) + more
