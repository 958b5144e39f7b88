"""From a record to tensors: read, augment as released, pad. Labels are read in training only."""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from detectron2.utils.logger import log_first_n
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..config.key_rules import FRAMEWORK
from .image_files import decode, exif_orientation
from .label_maps import read_record_label, take_half
from .resizing import ResizeShortestEdge

logger = logging.getLogger("hyperclip.data")

PAD_VALUE = 128

BRIGHT = 2**14
"""16-bit images whose values all stay below this may hold fewer bits: 10, 12 or 14."""


class SemSegMapper:
    """Training and test mapper for semantic segmentation; it reads labels in training alone.

    Args:
        size: pad, with ``ignore`` in labels, or cut to exactly this side; -1 leaves images alone.
        image_bits, max_pixels: see :func:`read_image`, for records that say nothing else.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list,
        ignore: int,
        size: int,
        image_bits: int,
        max_pixels: int,
    ) -> None:
        self.is_train, self.augmentations = is_train, T.AugmentationList(augmentations)
        self.ignore, self.size = ignore, size
        self.image_bits, self.max_pixels = image_bits, max_pixels

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True, ignore: int | None = None) -> dict:
        """Translate a config; ``ignore`` in place of MODEL.SEM_SEG_HEAD.IGNORE_VALUE."""
        checked = ("DATASET_MAPPER_NAME", "FORMAT", "RANDOM_FLIP")
        FRAMEWORK.require("INPUT.", {key: getattr(cfg.INPUT, key) for key in checked})
        if ignore is None:
            ignore = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        resize = ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")
        return {
            "is_train": is_train,
            "augmentations": _train_augmentations(cfg, ignore) if is_train else [resize],
            "ignore": ignore,
            "size": cfg.INPUT.SIZE_DIVISIBILITY if is_train else -1,
            "image_bits": cfg.INPUT.IMAGE_BITS,
            "max_pixels": cfg.INPUT.MAX_PIXELS,
        }

    def __call__(self, record: dict) -> dict:
        """A copy of the record with "image" uint8 (3, H, W), in training "sem_seg" int64 (H, W);
        raises what :func:`read_pair` does.
        """
        record = {"image_bits": self.image_bits, "max_pixels": self.max_pixels, **record}
        image, label = read_pair(record) if self.is_train else (read_record_image(record), None)
        if label is not None:  # Detectron2's nearest resize takes float or 8-bit only
            label = label.astype(np.float32)
        record = {"height": image.shape[0], "width": image.shape[1], **record}
        inputs = T.AugInput(image, sem_seg=label)
        self.augmentations(inputs)
        pixels = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        record["image"] = self._fit(pixels, PAD_VALUE)
        if label is not None:
            sem_seg = torch.from_numpy(np.ascontiguousarray(inputs.sem_seg)).long()
            record["sem_seg"] = self._fit(sem_seg, self.ignore)
        return record

    def _fit(self, x: Tensor, value: int) -> Tensor:
        if self.size <= 0:
            return x
        h, w = x.shape[-2:]
        return F.pad(x, (0, self.size - w, 0, self.size - h), value=value)


def _train_augmentations(cfg: CfgNode, ignore: int) -> list[T.Augmentation | T.Transform]:
    inputs, crop, flip = cfg.INPUT, cfg.INPUT.CROP, cfg.INPUT.RANDOM_FLIP
    sampling = inputs.MIN_SIZE_TRAIN_SAMPLING
    resize = ResizeShortestEdge(inputs.MIN_SIZE_TRAIN, inputs.MAX_SIZE_TRAIN, sampling)
    steps: list[T.Augmentation | T.Transform] = [resize]
    if crop.ENABLED:
        largest = crop.SINGLE_CATEGORY_MAX_AREA
        steps.append(T.RandomCrop_CategoryAreaConstraint(crop.TYPE, crop.SIZE, largest, ignore))
    if inputs.COLOR_AUG_SSD:
        steps.append(ColorAugSSDTransform(img_format="RGB"))
    if flip != "none":
        steps.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    return steps


def read_pair(record: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) and label (H, W) of one of Detectron2's records; raises what
    :func:`read_image` and :func:`read_record_label` do, and ValueError if sizes differ.
    """
    image, label = read_record_image(record), read_record_label(record)
    if image.shape[:2] != label.shape:
        raise ValueError(
            f"{record['file_name']} has {image.shape[1]} x {image.shape[0]} pixels, its label "
            f"{record['sem_seg_file_name']} {label.shape[1]} x {label.shape[0]}; expected the same "
            f"size{exif_hint(record)}"
        )
    return image, label


def exif_hint(record: Mapping) -> str:
    """What EXIF may have to do with sizes that differ; empty if nothing."""
    tag = exif_orientation(record.get("file_name", ""))
    if tag == 1:
        return ""
    said = record.get("orientation")
    other = "applied" if said == "stored" else "stored"
    says = f"says orientation: {said}" if said else "says no orientation"
    return f". The EXIF orientation of the image is {tag}, and the dataset {says}. Is it {other}?"


def read_record_image(record: Mapping) -> np.ndarray:
    """The image, or its half, of one of Detectron2's records, by :func:`read_image`; ValueError if
    EXIF turns it, and the record does not say where its label belongs.
    """
    path = record["file_name"]
    orientation = record.get("orientation", "" if "sem_seg_file_name" in record else "applied")
    limits = {key: record[key] for key in ("image_bits", "max_pixels") if key in record}
    image = read_image(path, orientation, **limits, folder=str(Path(path).parent))
    if "half" in record:
        return np.ascontiguousarray(take_half(image, record["half"], path))
    return image


def read_image(
    path: str | Path,
    orientation: str = "applied",
    image_bits: int = 0,
    max_pixels: int = 0,
    folder: str = "",
) -> np.ndarray:
    """Read an image file as uint8 RGB (H, W, 3), turned upright by its EXIF tag.

    Grey, palette and alpha images are converted; 16 bits are scaled to 8. A warning is logged where
    they seem to be fewer. Raises what :func:`decode` does, and ValueError for 32-bit values without
    a known range, or values of more than ``image_bits``.

    Args:
        orientation: "stored" leaves the pixels where they are.
        image_bits: significant bits of images of 16 bits a channel, 12 say; 0 for all.
        max_pixels: more pixels are refused; 0 for Pillow's limit of about 179 million.
        folder: if named, the warning is of all its images, and is logged once.
    """
    file = decode(path, "image", max_pixels)
    image = file.image
    # Pillow spreads those to 16 bits
    grey16 = image.mode.startswith("I;16") or (image.mode == "I" and file.format == "PPM")
    # Pillow drops the lower 8 bits
    colour16 = image.mode in ("RGB", "RGBA", "LA") and ";16" in file.raw_mode
    if grey16:
        known = 12 if file.raw_mode == "I;12" else 0
        image = Image.fromarray(_eight_bits(np.asarray(image), image_bits or known, path, folder))
    elif colour16 and (image_bits or np.asarray(image).max(initial=0) < BRIGHT >> 8):
        scaled = _eight_bits(_colour16(path), image_bits, path, folder)
        image = Image.fromarray(scaled) if image_bits else image
    elif image.mode in ("I", "F"):
        problem = f"mode {image.mode!r} of 32-bit values; expected 8 or 16 bits a channel"
        raise ValueError(f"image {str(path)!r} cannot be read ({problem})")
    turned = replace(file, image=image).oriented(orientation)
    return np.ascontiguousarray(np.asarray(turned.convert("RGB")))


def _eight_bits(values: np.ndarray, bits: int, path: str | Path, folder: str) -> np.ndarray:
    """16-bit values as uint8, by their significant bits; dark ones cause the warning."""
    top = int(values.max(initial=0))
    if bits and top >= 1 << bits:
        what = f"got values up to {top}, more than {bits} bits hold"
        raise ValueError(f"image {str(path)!r}: {what}. Correct image_bits")
    if not bits and 0 < top < BRIGHT:
        likely = max(8, top.bit_length() + top.bit_length() % 2)
        which = f"images in {folder!r}" if folder else f"image {str(path)!r}"
        message = (
            f"{which}: no 16-bit value takes more than {likely} bits. If that is the depth, what "
            f"is read is far too dark: say so by image_bits: {likely} in the dataset's YAML file, "
            f"or by the config key INPUT.IMAGE_BITS {likely}"
        )
        times = 1 if folder else sys.maxsize
        log_first_n(logging.WARNING, message, times, name=logger.name, key="message")
    step = ((1 << bits) - 1) / 255 if bits else 257
    return (values.astype(np.float32) / step + 0.5).astype(np.uint8)


def _colour16(path: str | Path) -> np.ndarray:
    """All 16 bits of a colour image (H, W, 3), RGB, not turned, its alpha channel left out."""
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    values = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    if values is None or values.dtype != np.uint16:
        problem = "cannot be read in 16 bits a channel; convert it to 8 bits"
        raise ValueError(f"image {str(path)!r} {problem}")
    if values.ndim == 2 or values.shape[2] == 2:
        values = np.repeat(values.reshape(*values.shape[:2], -1)[..., :1], 3, axis=2)
    return np.ascontiguousarray(values[..., 2::-1])
