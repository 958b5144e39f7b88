"""Small datasets with annotations of every format, and datasets' labels as they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hyperclip.data.dataset_file import read_dataset_file
from hyperclip.data.label_maps import read_record_label
from hyperclip.data.records import load_records
from PIL import Image

CLASSES = ("road", "car", "sky")


def photos(root: Path, names: Sequence[str], size: tuple[int, int] = (20, 30)) -> None:
    """Images (height, width) of noise in ``root/photos``."""
    for k, name in enumerate(names):
        path = root / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(k).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(noise).save(path)


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def describe(root: Path, labels: Any, label_map: Mapping | None, **keys: Any) -> Path:
    """A dataset file for ``root/photos``; its path."""
    content = {
        "name": "own",
        "splits": {"val": {"images": "photos", "labels": labels}},
        "classes": list(CLASSES),
        "label_map": dict(label_map) if label_map is not None else None,
        **keys,
    }
    path = root / "own.yaml"
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(yaml.safe_dump(kept, allow_unicode=True), encoding="utf-8")
    return path


def read(path: Path) -> dict[str, np.ndarray]:
    """The labels of a dataset file's images, all splits, by image id."""
    records = [record for spec in read_dataset_file(path) for record in load_records(spec)]
    return {record["image_id"]: read_record_label(record) for record in records}


def coco(
    images: Sequence[str],
    annotations: Sequence[Mapping],
    categories: Mapping[int, str],
    size: tuple[int, int] = (20, 30),
) -> dict[str, Any]:
    """COCO's JSON; an annotation's ``image_id`` is the place of its image, from 1 on."""
    height, width = size
    return {
        "images": [
            {"id": k, "file_name": name, "height": height, "width": width}
            for k, name in enumerate(images, 1)
        ],
        "annotations": [{"id": k, **a} for k, a in enumerate(annotations, 1)],
        "categories": [{"id": k, "name": name} for k, name in categories.items()],
    }


def polygon_of_box(left: int, top: int, right: int, bottom: int) -> list[int]:
    """A box as a polygon along the edges of its pixels; right and bottom are not inside."""
    return [left, top, right, top, right, bottom, left, bottom]


def runs_of(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed run lengths of a mask (H, W): columns first, the first run is of zeros."""
    flat = mask.T.ravel().astype(int).tolist()
    counts, value = [0], 0
    for pixel in flat:
        if pixel == value:
            counts[-1] += 1
        else:
            counts.append(1)
            value = pixel
    return {"size": list(mask.shape), "counts": counts}
