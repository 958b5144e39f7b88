"""Cityscapes' format: PNGs of class indices and of colours, and dataset_meta.json, by which CVAT
and datumaro know classes that are not Cityscapes' own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .answer import Answer
from .indexed_masks import index_mask, voc_colors
from .limits import need_8_bits, need_distinct, need_other_than

NO_CLASS_NAME = "unlabeled"


class Cityscapes(NamedTuple):
    """``label_ids``, uint8 (H, W), to save as NAME_gtFine_labelIds.png and, since no instances are
    told apart, as NAME_gtFine_instanceIds.png; ``colors``, uint8 RGB (H, W, 3), for
    NAME_gtFine_color.png; ``meta`` for dataset_meta.json. The index 0 is unlabeled.
    """

    label_ids: np.ndarray
    colors: np.ndarray
    meta: dict[str, Any]


def cityscapes(answer: Answer) -> Cityscapes:
    """One image in Cityscapes' format; ValueError as :func:`need_cityscapes_names`."""
    meta, label_ids = cityscapes_meta(answer.names), index_mask(answer)
    return Cityscapes(label_ids, voc_colors()[label_ids], meta)


def cityscapes_meta(names: Sequence[str]) -> dict[str, Any]:
    """dataset_meta.json: the name and the colour of each index."""
    need_cityscapes_names(names)
    labels = [NO_CLASS_NAME, *names]
    return {
        "labels": labels,
        "label_map": {str(i): name for i, name in enumerate(labels)},
        "segmentation_colors": voc_colors()[: len(labels)].tolist(),
        "background_label": "0",
    }


def need_cityscapes_names(names: Sequence[str]) -> None:
    """ValueError for more than 254 classes, or one called "unlabeled"."""
    what = "format cityscapes"
    need_8_bits(what, names)
    need_distinct(what, names)
    need_other_than(what, names, NO_CLASS_NAME)
