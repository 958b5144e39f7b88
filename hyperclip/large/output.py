"""The files of a large image's labels: a GeoTIFF, written by rows of blocks, and polygons."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.files import write_atomically
from ..visualization import palette
from .lattice import Box
from .pieces import Pieces
from .raster import Raster, quiet_rasterio

BLOCK = 512
"""Side of the blocks of the output."""
MOST_OF_8_BITS = 254
"""Classes that 8 bits hold beside pixels of no class and of no data."""
MOST_OF_16_BITS = 65534
DEGREES = "EPSG:4326"
"""What GeoJSON's coordinates are, by RFC 7946."""
DIGITS = 8
"""Decimals of polygons in degrees, about a millimetre."""


def kind_of(classes: int) -> tuple[type[np.unsignedinteger[Any]], int, int]:
    """The type of the labels of so many classes, the label of pixels that belong to none of them,
    and that of pixels where the image has no data; ValueError for more than 16 bits hold.
    """
    if classes > MOST_OF_16_BITS:
        raise ValueError(f"classes: got {classes}, expected at most {MOST_OF_16_BITS}")
    if classes > MOST_OF_8_BITS:
        return np.uint16, 65534, 65535
    return np.uint8, 254, 255


def profile_of(raster: Raster, box: Box, classes: int) -> dict[str, Any]:
    """How the labels of a part are stored: tiled, compressed, at their place."""
    kind, _, no_data = kind_of(classes)
    height, width = box.size
    profile: dict[str, Any] = {
        "driver": "GTiff", "count": 1, "dtype": np.dtype(kind).name, "nodata": no_data,
        "height": height, "width": width, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        "compress": "deflate", "bigtiff": "if_safer",
    }  # fmt: skip
    if raster.crs is not None:
        from rasterio.windows import Window, transform

        own = transform(Window(box.left, box.top, width, height), raster.transform)
        profile |= {"crs": raster.crs, "transform": own}
    return profile


def write_labels(
    target: Path,
    raster: Raster,
    box: Box,
    names: Sequence[str],
    boxes: Sequence[Box],
    pieces: Pieces,
) -> np.ndarray:
    """Write the pieces of a part of an image as one GeoTIFF, in full or not at all; how many pixels
    each label has. The names of the classes are in its tags, their colours in its palette.
    """
    kind, none, no_data = kind_of(len(names))
    counts = np.zeros(no_data + 1, np.int64)

    def write(part: Path) -> None:
        import rasterio
        from rasterio.windows import Window

        with (
            quiet_rasterio(),
            rasterio.open(part, "w", **profile_of(raster, box, len(names))) as file,
        ):
            file.update_tags(NAMES=json.dumps(list(names)), NO_CLASS=none, NO_DATA=no_data)
            if kind is np.uint8:
                colors = enumerate(palette(len(names)).tolist())
                file.write_colormap(1, {i: (*color, 255) for i, color in colors})
            counts[:] = 0
            for rows, labels in _bands(box, boxes, pieces, kind):
                counts[:] += np.bincount(labels.ravel(), minlength=len(counts))
                place = Window(0, rows.top - box.top, labels.shape[1], labels.shape[0])
                file.write(labels, 1, window=place)
        require_counts(part, counts)  # GDAL does not always say that a disk is full

    write_atomically(target, write)
    return counts


def require_counts(path: Path, counts: np.ndarray) -> None:
    """OSError unless a file of labels has so many pixels of each."""
    import rasterio
    from rasterio.windows import Window

    with quiet_rasterio(), rasterio.open(path) as file:
        found = np.zeros_like(counts)
        for top in range(0, file.height, BLOCK):
            labels = file.read(1, window=Window(0, top, file.width, min(BLOCK, file.height - top)))
            found += np.bincount(labels.ravel(), minlength=len(counts))
    if (found != counts).any():
        raise OSError("what was written reads otherwise; is the disk full?")


def _bands(
    box: Box, boxes: Sequence[Box], pieces: Pieces, kind: type[np.unsignedinteger[Any]]
) -> Iterator[tuple[Box, np.ndarray]]:
    """The labels of each row of the output's blocks, and where they are."""
    for top, bottom in pairwise([*range(box.top, box.bottom, BLOCK), box.bottom]):
        rows = Box(top, bottom, box.left, box.right)
        labels = np.empty(rows.size, kind)
        for own in boxes:
            common = own.common(rows)
            if common.bottom > common.top:
                labels[common.within(rows)] = pieces.read(own)[common.within(own)]
        yield rows, labels


def write_polygons(target: Path, labels: Path, names: Sequence[str]) -> str:
    """Write the outlines of the classes in a file of labels as GeoJSON, in full or not at all: in
    degrees (EPSG:4326), or in pixels, x to the right and y down, of an image that is no map. A line
    that says which.
    """
    count = 0

    def write(part: Path) -> None:
        nonlocal count
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            for count, feature in enumerate(_features(labels, names), 1):
                file.write(f"{',' if count > 1 else ''}\n{json.dumps(feature)}")
            file.write("\n]}\n")

    write_atomically(target, write)
    import rasterio

    with quiet_rasterio(), rasterio.open(labels) as file:
        is_map = file.crs is not None
    unit = f"degrees ({DEGREES})" if is_map else "pixels, since the image says nothing of a map"
    return f"{target}: {count} polygons in {unit}"


def _features(path: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    import rasterio
    from rasterio.features import shapes
    from rasterio.warp import transform_geom

    with quiet_rasterio(), rasterio.open(path) as file:
        found = shapes(rasterio.band(file, 1), transform=file.transform)
        classes = ((shape, int(value)) for shape, value in found if int(value) < len(names))
        while some := list(islice(classes, 1000)):
            geometries = [shape for shape, _ in some]
            if file.crs is not None:
                geometries = transform_geom(file.crs, DEGREES, geometries, precision=DIGITS)
            for geometry, (_, value) in zip(geometries, some, strict=True):
                properties = {"class": names[value], "label": value}
                yield {"type": "Feature", "properties": properties, "geometry": geometry}


def need_new(paths: Sequence[Path], source: Path, may_be_there: bool) -> None:
    """FileExistsError for an output that is the input, or is there unless it may be."""
    for path in paths:
        if path.exists() and path.samefile(source):
            raise FileExistsError(f"output {str(path)!r} is the input. Choose another name")
        if path.exists() and not may_be_there:
            raise FileExistsError(f"output {str(path)!r} is there. Choose another name, or restart")
