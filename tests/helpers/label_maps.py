"""Label maps of all kinds that results are written from, real ones and made ones."""

from __future__ import annotations

import numpy as np
import pytest
from hyperclip.prediction import Prediction
from PIL import Image

from tests.conftest import ROOT

DATA = ROOT.parent / "shared" / "data"
WORDS = ['a "quoted" name', "one, two", "naïve café", "犬", "line\\n", "{}", "'", "ÿ" * 40]


def real_masks():
    """(name, labels) of real masks, ten of a folder or all, with their values, 255 for none."""
    folders = ("coco_panoptic_samples/masks", "msrc21/labels_clean", "camvid_train/labels")
    folders += ("cocostuff_samples/val_label", "pascal_context_samples/labels")
    for folder in folders:
        for file in sorted((DATA / folder).glob("*.png"))[:10]:
            labels = np.asarray(Image.open(file)).astype(np.int64)
            yield f"{folder}/{file.name}", np.where(labels == 255, -1, labels)


def made_masks():
    """No class at all, 1,000 classes, odd sizes, one pixel, stripes, and a chessboard."""
    generator = np.random.default_rng(0)
    yield "none", np.full((5, 7), -1)
    yield "thousand", generator.permutation(np.arange(1000)).reshape(25, 40)
    for size in ((1, 1), (1, 33), (47, 1), (13, 29)):
        yield f"noise {size}", generator.integers(-1, 8, size)
    yield "board", np.indices((9, 11)).sum(0) % 2
    yield "corner", np.pad(np.zeros((1, 1), dtype=int), ((0, 6), (0, 4)), constant_values=-1)


CASES = [*(real_masks() if DATA.is_dir() else ()), *made_masks()]
each = pytest.mark.parametrize("labels", [pytest.param(labels, id=name) for name, labels in CASES])
split = pytest.mark.parametrize("instances", [False, True])


def names_of(labels):
    """The words, and more names up to the largest label."""
    count = max(int(labels.max()) + 1, len(WORDS))
    return [*WORDS, *(f"class {i}" for i in range(len(WORDS), count))]


def prediction_of(labels):
    """Labels with some confidence and :func:`names_of`."""
    confidence = np.random.default_rng(1).random(labels.shape, dtype=np.float32)
    return Prediction(labels, confidence, names_of(labels))
