"""Large images and a cheap system, for tests of what is read and written by windows."""

from __future__ import annotations

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from hyperclip.predictor import Predictor
from hyperclip.score_maps import GridMaps
from hyperclip.segmenter import Description, Segmenter, label
from rasterio.transform import Affine
from rasterio.windows import Window

COLORS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 210)}
NAMES = "; ".join(COLORS)
MAP = Affine(0.5, 0, 500_000, 0, -0.5, 5_500_000)
"""Pixels of half a metre in UTM."""


class Cheap(Segmenter):
    """Scores of how near the colours of a window's cells are to those of ``COLORS``, and a little
    of what else is in the window, as real systems have it.
    """

    takes_checkpoint = False

    def __init__(self, cells: int = 16, context: float = 0.05) -> None:
        super().__init__()
        self.cells, self.context = cells, context
        self.seen = 0

    def encode(self, images):
        self.seen += len(images)
        return [F.adaptive_avg_pool2d(x.float()[None], self.cells)[0] for x in images]

    def score(self, encoded, question, size):
        colors = torch.tensor([COLORS[name] for name in question.vocabulary.names]).float()
        far = torch.cdist(colors, encoded.flatten(1).T).unflatten(1, encoded.shape[1:]) / 256
        scores = torch.exp(-far)
        scores = scores + self.context * scores.mean(dim=(1, 2), keepdim=True)
        return GridMaps(scores, 0.0, question.pixel_threshold or 0.0)

    def segment(self, encoded, question, size):
        return label(self.score(encoded, question, size), size, question.scores)

    def describe(self, dataset=()):
        return Description("Cheap", settings={"cells": self.cells, "context": self.context})


def cheap(**options: float) -> Predictor:
    """A predictor of the cheap system."""
    return Predictor(Cheap(**options))


def blobs(rows: range, columns: range, period: int = 11) -> np.ndarray:
    """A part of an endless picture of smooth colours, uint8 (3, h, w)."""
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
    x = np.arange(columns.start, columns.stop, dtype=np.float32)
    waves = [
        np.sin(y / period) + np.sin(x / (1.7 * period)),
        np.sin(x / period) - np.sin(y / (2.3 * period) + 1),
        np.sin(y / (1.3 * period) + 2) + np.sin(x / (1.1 * period)),
    ]
    return np.stack([(128 + 60 * wave).astype(np.uint8) for wave in waves])


def write_map(
    path, height, width, *, transform=MAP, crs="EPSG:32632", first=(0, 0), period=11, **options
):
    """Write such a picture as a GeoTIFF, by windows; ``first`` is the picture's row and column
    at the upper left corner.
    """
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True} | options
    profile |= {"blockxsize": 256, "blockysize": 256, "crs": crs, "transform": transform}
    shape = {"height": height, "width": width}
    with rasterio.open(path, "w", **profile, **shape) as file:
        for top in range(0, height, 256):
            rows = range(first[0] + top, first[0] + min(top + 256, height))
            pixels = blobs(rows, range(first[1], first[1] + width), period)
            file.write(pixels, window=Window(0, top, width, len(rows)))
    return path
