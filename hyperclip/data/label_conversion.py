"""Published labels into those that the registered datasets read: the conversions, on arrays, and
the loop over files that all scripts ``datasets/prepare_*.py`` share.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_masks
from tqdm import tqdm

from ..labels import IGNORE
from ..runtime.files import user_path, write_atomically
from ..runtime.program import program_parser
from .annotations.painting import decode_mask, run_lengths
from .image_files import decode
from .label_maps import ILLEGAL, LABEL_MAPS
from .records import first_faults
from .registry import dataset_root

IGNORE16 = 65535
"""Label of pixels of no class in 16-bit files."""

CONTEXT59_IDS = (
    0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
"""Category ids in trainval_merged.json: "nothing", then the 59 classes in the order of indices."""

ADE_IDS = 26 * 256
"""Object ids of ADE20K are below this."""

ADE_SHORT_SIDE = 512
JPEG_QUALITY = 75
FORMATS = {".png": "PNG", ".tif": "TIFF", ".jpg": "JPEG"}


def coco_stuff_labels(raw: np.ndarray) -> np.ndarray:
    """COCO-Stuff's pixel maps (H, W), category id - 1 (0..181) or 255, else ValueError, as class
    indices, uint8 (H, W): 0..170, and 255 for unlabelled pixels and for ids that no class has.
    """
    labels = LABEL_MAPS["coco_stuff"].look_up(raw)
    if values := np.unique(raw[labels == ILLEGAL])[:10].tolist():
        raise ValueError(f"got values {values}, expected a stuffthingmap's 0..182 and 255")
    return labels.astype(np.uint8)


def coco_object_labels(
    annotations: Sequence[Mapping], classes: Mapping[int, int], height: int, width: int
) -> np.ndarray:
    """Paint COCO's instances, crowd regions too, into one label, uint8 (H, W): 0 = background, else
    the class of the category id, 1..80. Large ones come first, so that small ones stay visible.

    Raises ValueError for a damaged segmentation, or a category that ``classes`` does not have.
    """
    labels = np.zeros((height, width), np.uint8)
    lengths = [run_lengths(a["segmentation"], height, width) for a in annotations]
    instances = zip([a["category_id"] for a in annotations], lengths, strict=True)
    for category, mask in sorted(instances, key=lambda pair: -int(coco_masks.area(pair[1]))):
        if category not in classes:
            expected = f"one of the {len(classes)} that the file lists"
            raise ValueError(f"category id: got {category}, expected {expected}")
        labels[decode_mask(mask, height, width)] = classes[category]
    return labels


def context59_labels(
    masks: Iterable[tuple[int, np.ndarray]], height: int, width: int
) -> np.ndarray:
    """Paint masks of Pascal Context, (category id, bool (H, W), else ValueError), one over the
    other: 0..58, the 59 frequent classes, or 255 for nothing or a rarer one, uint8 (H, W).
    """
    index = {category: k for k, category in enumerate(CONTEXT59_IDS[1:])}
    labels = np.full((height, width), IGNORE, np.uint8)
    for category, mask in masks:
        if mask.shape != labels.shape:
            shapes = f"got shape {mask.shape}, expected {labels.shape}"
            raise ValueError(f"mask of category {category}: {shapes}")
        labels[mask.astype(bool)] = index.get(category, IGNORE)
    return labels


def context459_labels(raw: np.ndarray) -> np.ndarray:
    """Pascal Context's ``LabelMap``, (H, W) of integers 0..459, else ValueError, as class indices,
    uint16 (H, W): 0..458, and 65535 for 0.
    """
    if raw.ndim != 2 or not np.issubdtype(raw.dtype, np.integer):
        got = f"got {raw.dtype} of shape {raw.shape}"
        raise ValueError(f"LabelMap: {got}, expected integers (H, W)")
    _need_range("LabelMap: got values", raw, 459)
    return np.where(raw == 0, IGNORE16, raw.astype(np.int32) - 1).astype(np.uint16)


def ade_object_ids(rgb: np.ndarray) -> np.ndarray:
    """Object ids, int32 (H, W) of 0..6655, of ADE20K's ``_seg.png``, uint8 (H, W, 3), else
    ValueError. An id is 256 (red // 10) + green; blue counts instances.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        expected = "expected the uint8 (H, W, 3) of a _seg.png"
        raise ValueError(f"got {rgb.dtype} of shape {rgb.shape}, {expected}")
    return rgb[..., 0].astype(np.int32) // 10 * 256 + rgb[..., 1]


@cache
def ade847_ids() -> tuple[int, ...]:
    """ADE20K's object ids of the 847 classes, in the order of their indices."""
    return tuple(json.loads(Path(__file__).with_name("ade847_ids.json").read_bytes()))


def ade847_labels(object_ids: np.ndarray) -> np.ndarray:
    """Object ids (H, W) of 0..6655, else ValueError, as class indices, uint16 (H, W): 0..846, or
    65535 for no class.
    """
    _need_range("object ids: got", object_ids, ADE_IDS - 1)
    table = np.full(ADE_IDS, IGNORE16, np.uint16)
    table[list(ade847_ids())] = np.arange(len(ade847_ids()))
    return table[object_ids]


def _need_range(got: str, values: np.ndarray, largest: int) -> None:
    if values.size and not (0 <= values.min() and values.max() <= largest):
        raise ValueError(f"{got} {values.min()}..{values.max()}, expected 0..{largest}")


def shrink(image: np.ndarray, interpolation: int) -> np.ndarray:
    """Scale an image (H, W) or (H, W, C) to a shorter side of 512 pixels if that is longer, by
    ``cv2.INTER_LINEAR``, or a label by ``cv2.INTER_NEAREST``.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    if short <= ADE_SHORT_SIDE:
        return image
    size = [round(side / short * ADE_SHORT_SIDE) for side in (width, height)]
    return cv2.resize(image, size, interpolation=interpolation)


class Job(NamedTuple):
    """One input to convert: what errors call it, and the files it becomes, .png, .tif or .jpg.

    ``make`` returns an array, or one for each of several targets; OSError, ValueError, LookupError
    or TypeError mean that the input is damaged.
    """

    source: str
    targets: tuple[Path, ...]
    make: Callable[[], np.ndarray | tuple[np.ndarray, ...]]


class Counts(NamedTuple):
    """Inputs that a conversion wrote into a folder, and those it kept from an earlier run."""

    folder: Path
    written: int
    kept: int

    def report(self, *official: int) -> str:
        """One line for the user, with a hint if the number of files is not an official one."""
        line = f"{self.folder}: {self.written} written, {self.kept} kept"
        total = self.written + self.kept
        if total in official:
            return line
        numbers = " or ".join(map(str, official))
        return f"{line}. The official number is {numbers}, not {total}: is the download complete?"


def convert_files(jobs: Sequence[Job], folder: Path) -> Counts:
    """Do the jobs whose targets are missing, empty or unreadable, each in full or not at all.

    Raises ValueError if there is no job, or, in the end, with the first 20 damaged inputs.
    """
    if not jobs:
        problem = f"got no input file for {folder}, expected at least one"
        raise ValueError(f"{problem}. Was the download unpacked in full?")
    written, kept, faults = 0, 0, []
    for job in tqdm(jobs, desc=folder.name, unit="file", disable=None):
        if all(map(is_readable, job.targets)):
            kept += 1
            continue
        try:
            made = job.make()
        except (OSError, ValueError, LookupError, TypeError) as error:
            told = str(error) if isinstance(error, OSError | ValueError) else repr(error)
            faults.append(told if job.source in told else f"{job.source}: {told}")
            continue
        arrays = made if isinstance(made, tuple) else (made,)
        for target, array in zip(job.targets, arrays, strict=True):
            write_atomically(target, partial(_save, array, target.suffix))
        written += 1
    if faults:
        raise ValueError(
            f"{len(faults)} of {len(jobs)} inputs for {folder} could not be converted ({written} "
            f"written, {kept} kept):\n  {first_faults(faults, indent='  ')}\nGet these files "
            "again; another run keeps what is done"
        )
    return Counts(folder, written, kept)


def is_readable(path: Path) -> bool:
    """Whether an image file is complete: checksums tell for PNG, decoding for other formats."""
    with suppress(Exception), Image.open(path) as image:  # of any kind, whatever is damaged
        image.verify() if image.format == "PNG" else image.load()
        return True
    return False


def _save(array: np.ndarray, suffix: str, path: Path) -> None:
    options = {"quality": JPEG_QUALITY} if suffix == ".jpg" else {}
    Image.fromarray(array).save(path, format=FORMATS[suffix], **options)


def read_pixels(path: Path, orientation: str = "") -> np.ndarray:
    """The pixels of a colour (H, W, 3) or grey (H, W) image, uint8, "stored" or "applied" where
    EXIF turns it. Raises ValueError for that if ``orientation`` is "", and as :func:`decode`.
    """
    try:
        image = decode(path, "image").oriented(orientation)
    except ValueError as error:
        if "EXIF orientation" not in str(error):
            raise
        raise ValueError(f"Pass --orientation stored or --orientation applied: {error}") from error
    return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


def preparation_parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of the scripts ``datasets/prepare_*.py``, with the option ``--root``."""
    parser = program_parser(description)
    default = "default: DETECTRON2_DATASETS or datasets"
    parser.add_argument("--root", type=user_path, default=dataset_root(), help=default)
    return parser
