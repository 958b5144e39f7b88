"""What is asked of a large image, and what can be wrong with it before the model is there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from .. import __version__
from ..config import changed_settings
from ..evaluation.kept_rows import named_contents
from ..predictor import Predictor
from ..runtime.files import need_output_folder
from ..segmenter import Question
from ..stages.model_print import hash_of_weights
from .lattice import Box, Lattice
from .output import kind_of, need_new
from .pieces import folder_of
from .raster import Raster, open_raster


@dataclass(frozen=True)
class Request:
    """What is segmented, and where to.

    Args:
        input: a TIFF file of any size, or another image. output: the GeoTIFF of the labels.
        polygons: also write their outlines, as GeoJSON.
        bands: of red, green and blue, or of grey, from 1 on; () for the file's own.
        value_range: values that become black and white, for files of other than 8 bits.
        extent: the part that is wanted, in pixels: left, top, right, bottom; None for all.
        window: side of what the model sees at a time in pixels, 0 for twice what its CLIP takes.
        tile: pixels of the width that is computed at a time, 0 for what memory allows; it makes no
            difference to the labels. batch: windows that go through the model together.
        restart: forget what an earlier run has done, and overwrite its output.
        image_bits, max_pixels: see :func:`hyperclip.data.read_image`, of other than TIFF files.
    Raises:
        ValueError: numbers or names that cannot be.
    """

    input: Path
    output: Path
    polygons: Path | None = None
    bands: tuple[int, ...] = ()
    value_range: tuple[float, float] | None = None
    extent: tuple[int, int, int, int] | None = None
    window: int = 0
    tile: int = 0
    batch: int = 4
    restart: bool = False
    image_bits: int = 0
    max_pixels: int = 0

    def __post_init__(self) -> None:
        if self.window:
            Lattice(self.window)  # raises
        for name, least in (("tile", 0), ("batch", 1)):
            if getattr(self, name) < least:
                got = f"got {getattr(self, name)}"
                raise ValueError(f"{name}: {got}, expected a number from {least} on")
        if self.output.suffix.lower() not in (".tif", ".tiff"):
            got = f"got {str(self.output)!r}"
            raise ValueError(f"output: {got}, expected a name that ends in .tif")
        if self.polygons and self.polygons.suffix.lower() not in (".geojson", ".json"):
            got = f"got {str(self.polygons)!r}"
            raise ValueError(f"polygons: {got}, expected a name that ends in .geojson")

    @contextmanager
    def open(self, classes: int) -> Iterator[tuple[Raster, Box]]:
        """The image and the part of it that is wanted, for so many classes, after a look at all
        that can be known before the model is; raises as :func:`open_raster`, and ValueError or
        OSError for an extent outside of the image, too many classes, or an output that cannot be.
        """
        kind_of(classes)
        options = (self.bands, self.value_range, self.image_bits, self.max_pixels)
        with open_raster(self.input, *options) as raster:
            box = self._box(raster)
            outputs = [self.output, *filter(None, [self.polygons])]
            going_on = self.restart or folder_of(self.output).exists()
            need_new(outputs, self.input, may_be_there=going_on)
            for path in outputs:
                need_output_folder(path.parent, "output")
            yield raster, box

    def _box(self, raster: Raster) -> Box:
        if self.extent is None:
            return raster.whole
        left, top, right, bottom = self.extent
        box = Box(top, bottom, left, right)
        if box.common(raster.whole) != box or 0 in box.size:
            raise ValueError(
                f"extent: got {left} {top} {right} {bottom}, expected left < right and top < "
                f"bottom within the image's {raster.width} x {raster.height} pixels"
            )
        return box


IDLE = (
    *("DATALOADER.", "DATASETS.", "SOLVER.", "WANDB.", "GLOBAL.", "MODEL.DEVICE", "MODEL.WEIGHTS"),
    *("CUDNN_BENCHMARK", "OUTPUT_DIR", "OVERWRITE", "SEED", "VERSION", "VIS_PERIOD"),
)
"""Keys of a config, or beginnings of them, that change no label; weights have a hash of their
own."""


def settings_of(cfg: CfgNode) -> dict[str, Any]:
    """What of a config may change labels, by key: values that are not the defaults, and hashes of
    the files that it and an ensemble's members name.
    """
    changed = {k: v for k, v in changed_settings(cfg).items() if not k.startswith(IDLE)}
    contents = {k: v for k, v in named_contents(cfg).items() if not k.startswith(IDLE)}
    return {**changed, **{f"content of {key}": mark for key, mark in contents.items()}}


def describe(request: Request, predictor: Predictor, question: Question) -> dict[str, Any]:
    """What decides the labels besides the windows, in plain values."""
    model, state = predictor.model, request.input.stat()
    described = model.describe()
    shown = hashlib.sha256()
    for example in predictor.examples:
        shown.update(f"{example.name} {example.words} {example.takes} ".encode())
        shown.update(example.prototype.float().cpu().numpy().tobytes())
    resize = predictor.resize
    asked = replace(question, scores=False)
    config = predictor.config
    return {
        **({} if config is None else settings_of(config)),
        "hyperclip": __version__,
        "input": [str(request.input.resolve()), state.st_size, state.st_mtime_ns],
        "batch": request.batch,
        "question": repr(asked),
        "system": described.system,
        "weights": hash_of_weights(model),
        "settings": dict(described.settings),
        "examples": shown.hexdigest() if predictor.examples else "",
        "resize": [resize.short_edge_length, resize.max_size],
        "precision": predictor.precision,
    }
