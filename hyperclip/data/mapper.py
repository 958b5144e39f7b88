"""From a record to tensors: read, augment as released, pad. The label is read once, and only in training."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from .labels import read_record_label, take_half

PAD_VALUE = 128


class SemSegMapper:
    """Training and test mapper for semantic segmentation.

    Args:
        is_train: read labels and augment.
        augmentations: Detectron2 augmentations.
        ignore: label of padding.
        size: pad or cut training images to exactly this side, right and bottom; -1 leaves them.
    """

    @configurable
    def __init__(
        self, is_train: bool, *, augmentations: list, ignore: int = 255, size: int = -1
    ) -> None:
        self.is_train, self.augmentations = is_train, T.AugmentationList(augmentations)
        self.ignore, self.size = ignore, size

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        if cfg.INPUT.DATASET_MAPPER_NAME != "mask_former_semantic":
            raise ValueError(
                f"INPUT.DATASET_MAPPER_NAME: got {cfg.INPUT.DATASET_MAPPER_NAME!r}, expected 'mask_former_semantic'"
            )
        if cfg.INPUT.FORMAT != "RGB":
            raise ValueError(f"INPUT.FORMAT: got {cfg.INPUT.FORMAT!r}, expected 'RGB', which CLIP was trained on")
        if is_train:
            size, longest, style = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
        else:
            size, longest, style = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice"
        augmentations = [T.ResizeShortestEdge(size, longest, style)]
        if is_train:
            crop = cfg.INPUT.CROP
            if crop.ENABLED:
                augmentations.append(
                    T.RandomCrop_CategoryAreaConstraint(
                        crop.TYPE, crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
                    )
                )
            if cfg.INPUT.COLOR_AUG_SSD:
                augmentations.append(_ColorJitter())
            flip = cfg.INPUT.RANDOM_FLIP
            if flip not in ("none", "horizontal", "vertical"):
                raise ValueError(f"INPUT.RANDOM_FLIP: got {flip!r}, expected 'none', 'horizontal' or 'vertical'")
            if flip != "none":
                horizontal = flip == "horizontal"
                augmentations.append(T.RandomFlip(horizontal=horizontal, vertical=not horizontal))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "ignore": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "size": cfg.INPUT.SIZE_DIVISIBILITY if is_train else -1,
        }

    def __call__(self, record: dict) -> dict:
        """Add "image" (3, H, W) uint8 and, in training, "sem_seg" (H, W) int64 to a copy of the record.

        Raises:
            FileNotFoundError, ValueError: a file that is missing or unreadable, a label of another size.
        """
        record = copy.copy(record)
        image = read_record_image(record)
        record.setdefault("height", image.shape[0])
        record.setdefault("width", image.shape[1])
        label = None
        if self.is_train:
            label = read_record_label(record)
            if label.shape != image.shape[:2]:
                raise ValueError(
                    f"{record['sem_seg_file_name']}: label of {label.shape}, its image {record['file_name']} is "
                    f"{image.shape[:2]}; expected the same size"
                )
            label = label.astype(np.float32)  # Detectron2's nearest resize takes float or 8-bit only
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


class _ColorJitter(T.Augmentation):
    """SSD's colour jitter as an augmentation of images alone."""

    def __init__(self) -> None:
        self.transform = ColorAugSSDTransform(img_format="RGB")

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return self.transform


def read_record_image(record: Mapping) -> np.ndarray:
    """The picture, or its half, of one of Detectron2's records; see :func:`read_image`."""
    image = read_image(record["file_name"])
    return np.ascontiguousarray(take_half(image, record["half"], record["file_name"])) if "half" in record else image


def read_image(path: str) -> np.ndarray:
    """Read an image file as uint8 RGB (H, W, 3), turned upright by its EXIF tag.

    Grey, palette and alpha images are converted; 16-bit grey is scaled to 8 bit.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is empty, cut short, no image, or of 32-bit values without a known range.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image, np.float32) / 257 + 0.5).astype(np.uint8))
            if image.mode in ("I", "F"):
                raise ValueError(f"mode {image.mode!r} of 32-bit values; expected 8 or 16 bits a channel")
            return np.ascontiguousarray(np.asarray(image.convert("RGB")))
    except FileNotFoundError:
        raise FileNotFoundError(f"image {path!r} does not exist") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image {path!r} cannot be read ({error}); is it empty or cut short?") from error
