"""Predictions of an evaluation as files: labels and confidence of every image, all or none.

``OUTPUT_DIR/predictions/DATASET`` holds ``predictions.json`` and, by an image's place in the
dataset, ``000000_labels.png`` (as :func:`hyperclip.visualization.label_image` writes it) and
``000000_confidence.png`` (16 bits: 0 is 0, 65535 the system's largest confidence). The folder gets
its name when everything is in it.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from PIL import Image
from torch import Tensor

from ..labels import NO_CLASS
from ..runtime.files import read_json, refused, write_text
from ..visualization import label_image

SCHEMA = 1
INDEX = "predictions.json"
STEPS = 65535
"""Of a saved confidence, from 0 to the largest."""
PLACE = "place"
"""Field of a record that says its place in the dataset."""


def predictions_folder(cfg: CfgNode, dataset: str) -> Path | None:
    """Where predictions of a dataset go, None if the config does not ask for them."""
    if not cfg.TEST.SAVE_PREDICTIONS:
        return None
    return Path(cfg.OUTPUT_DIR) / "predictions" / dataset


def writer_for(cfg: CfgNode, dataset: str) -> "PredictionWriter | None":
    """What saves the predictions of a dataset, None if the config does not ask for it."""
    folder = predictions_folder(cfg, dataset)
    if folder is None:
        return None
    system = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    return PredictionWriter(folder, float(system.largest_confidence(cfg)))


@dataclass
class PredictionWriter:
    """Saves the predictions of one dataset, each process those of its images.

    Args:
        folder: what the main process names so in the end; one of that name is replaced.
        largest: the highest confidence; what is outside 0..largest is cut off, and counted.
    """

    folder: Path
    largest: float
    images: list[dict[str, Any]] = field(default_factory=list)

    @property
    def part(self) -> Path:
        """The folder while it is not whole."""
        return self.folder.with_name(f".{self.folder.name}.part")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Begin on the main process with an empty folder, and leave none after an error."""
        if comm.is_main_process():
            self._empty()
        try:
            yield
        except BaseException:
            if comm.is_main_process():
                shutil.rmtree(self.part, ignore_errors=True)
            raise

    def _empty(self) -> None:
        try:
            if self.part.exists():
                shutil.rmtree(self.part)
            self.part.mkdir(parents=True)
        except OSError as error:
            raise refused(error, f"{str(self.part)!r} cannot be made") from error

    def add(
        self, record: Mapping, prediction: Tensor, confidence: Tensor | None, classes: int
    ) -> None:
        """Save an image: the dataset's labels (H, W), and the score of each (H, W), which may be
        missing where no pixel has a class; ValueError if it is elsewhere, OSError for a full disk.
        """
        labels = prediction.cpu().numpy()
        values = np.zeros(labels.shape) if confidence is None else confidence.double().cpu().numpy()
        if confidence is None and (labels != NO_CLASS).any():
            name = record.get("file_name", record[PLACE])
            raise ValueError(
                f"TEST.SAVE_PREDICTIONS: the answer for {name} has no confidence, expected "
                "'sem_seg_confidence' or 'sem_seg' beside the labels"
            )
        number = f"{record[PLACE]:06d}"
        levels = np.clip(values / self.largest, 0, 1) * STEPS
        try:
            label_image(labels, classes, steady=True).save(self.part / f"{number}_labels.png")
            image = Image.fromarray(np.rint(levels).astype(np.uint16))
            image.save(self.part / f"{number}_confidence.png")
        except OSError as error:
            raise refused(error, f"{str(self.part / number)!r} cannot be written") from error
        height, width = labels.shape
        outside = int(((values < 0) | (values > self.largest)).sum())
        entry = {"image_id": record.get("image_id"), "number": record[PLACE]}
        self.images.append({**entry, "height": height, "width": width, "outside": outside})

    def finish(self, about: Mapping[str, Any]) -> None:
        """Have the main process write the index with the images of all processes, and name the
        folder; all processes call it. OSError if that fails.
        """
        shares = comm.gather(self.images)
        if not comm.is_main_process():
            return
        images = sorted((x for share in shares for x in share), key=lambda x: x["number"])
        content = {"schema": SCHEMA, **about, "largest_confidence": self.largest, "images": images}
        write_text(self.part / INDEX, json.dumps(content, indent=1) + "\n")
        old = self.folder.with_name(f".{self.folder.name}.old")
        try:
            shutil.rmtree(old, ignore_errors=True)
            if self.folder.exists():
                os.replace(self.folder, old)
            os.replace(self.part, self.folder)
        except OSError as error:
            raise refused(error, f"{str(self.folder)!r} cannot be written") from error
        shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True)
class SavedPredictions:
    """A folder of predictions; ``about`` is what its index says."""

    folder: Path
    about: Mapping[str, Any]

    @property
    def images(self) -> list[dict[str, Any]]:
        """An entry for each image: "image_id", "number", "height", "width", "outside"."""
        return self.about["images"]

    def labels(self, entry: Mapping[str, Any]) -> np.ndarray:
        """Labels of the dataset (H, W), int64, or ``NO_CLASS``; FileNotFoundError or ValueError."""
        names, path = self.about["names"], self._path(entry, "labels")
        values = _read(path, entry).astype(np.int64)
        none = 65535 if len(names) >= 255 else 255
        labels = np.where(values == none, NO_CLASS, values)
        if labels.max(initial=NO_CLASS) >= len(names):
            got = f"got the label {labels.max()}, expected 0 to {len(names) - 1} or {none}"
            raise ValueError(f"{str(path)!r}: {got}. Evaluate again")
        return labels

    def confidence(self, entry: Mapping[str, Any]) -> np.ndarray:
        """The confidence (H, W) as a share of the largest, 0..1; raises as :meth:`labels`."""
        return _read(self._path(entry, "confidence"), entry) / STEPS

    def _path(self, entry: Mapping[str, Any], kind: str) -> Path:
        return self.folder / f"{entry['number']:06d}_{kind}.png"


def _read(path: Path, entry: Mapping[str, Any]) -> np.ndarray:
    size = (entry["height"], entry["width"])
    if not path.is_file():
        what = f"does not exist, which {INDEX} names"
        raise FileNotFoundError(f"{str(path)!r} {what}. Evaluate again")
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        raise ValueError(f"{str(path)!r} cannot be read ({error}). Evaluate again") from error
    if values.shape != size or values.dtype.kind not in "ui":
        got = f"got {values.shape} of {values.dtype}, expected whole numbers of {size}"
        raise ValueError(f"{str(path)!r}: {got}. Evaluate again")
    return values


NEEDED = {
    "dataset": str, "names": list, "ignore": int, "background": str, "system": str,
    "protocol": str, "trained_on": list, "scores": dict, "largest_confidence": float,
    "images": list,
}  # fmt: skip
"""What an index needs, with its types."""


def read_predictions(folder: Path) -> SavedPredictions:
    """A folder that :class:`PredictionWriter` wrote; FileNotFoundError if it is not there,
    ValueError if it is something else.
    """
    path = folder / INDEX
    if not path.is_file():
        how = "evaluate with TEST.SAVE_PREDICTIONS True"
        raise FileNotFoundError(f"{str(path)!r} does not exist: {how}, which writes it")
    about = read_json(path, "index of predictions")
    fits = isinstance(about, dict) and about.get("schema") == SCHEMA
    if not fits or not all(isinstance(about.get(k), kind) for k, kind in NEEDED.items()):
        raise ValueError(
            f'{str(path)!r} is no index of predictions: expected "schema" {SCHEMA} and '
            f"{list(NEEDED)}. Evaluate again with TEST.SAVE_PREDICTIONS True"
        )
    keys = {"image_id", "number", "height", "width", "outside"}
    for entry in about["images"]:
        if not isinstance(entry, dict) or not keys <= entry.keys():
            raise ValueError(f"{str(path)!r}: got the image {entry!r}, expected {sorted(keys)}")
    return SavedPredictions(folder, about)
