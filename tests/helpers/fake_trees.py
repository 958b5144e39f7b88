"""Tiny raw trees of every supported dataset, in the true folders, names and formats, with
deterministic random content.

Each builder puts ``n`` images of about 40 x 60 pixels below ``root``. Labels hold several classes
and what does not count.
"""

from __future__ import annotations

import json
import os
import pickle
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hyperclip.data.label_conversion import CONTEXT59_IDS, Counts, ade847_ids
from PIL import Image
from pycocotools import mask as coco_masks

DATASETS = Path(__file__).parents[2] / "datasets"
BARE = """
import runpy, sys
sys.modules |= dict.fromkeys(("torch", "torchvision", "detectron2", "open_clip"))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A program that runs another one as if these packages were not installed."""
SIZES = ((40, 60), (44, 56), (60, 40))
VOC, CONTEXT, ADE = "VOCdevkit/VOC2012", "VOCdevkit/VOC2010", "ADE20K_2021_17_01"
COCO_CATEGORIES = tuple(
    k for k in range(1, 91) if k not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
)


def size_of(k: int) -> tuple[int, int]:
    """Height and width of the k-th image."""
    return SIZES[k % len(SIZES)]


def blocks(
    values: Sequence[int], size: tuple[int, int], seed: int, dtype: type = np.uint8
) -> np.ndarray:
    """A label map (H, W) of 4 x 6 blocks with all ``values`` (24 at most) in it."""
    rng = np.random.default_rng(seed)
    cells = np.concatenate([values, rng.choice(values, 24 - len(values))]).astype(dtype)
    rows, columns = (
        np.arange(side) * cells_along // side
        for side, cells_along in zip(size, (4, 6), strict=True)
    )
    return rng.permutation(cells).reshape(4, 6)[np.ix_(rows, columns)]


def photo(path: Path, size: tuple[int, int], seed: int) -> None:
    """Save an image of random colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (24, 3), np.uint8)
    kind = {"quality": 95} if path.suffix == ".jpg" else {}
    Image.fromarray(colours[blocks(range(24), size, seed)]).save(path, **kind)


def save_label(path: Path, labels: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if palette:
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path)


def coco_ids(n: int, split: str = "val2017") -> list[int]:
    return [(139 if split == "val2017" else 9) + 146 * k for k in range(n)]


def coco_stuff(root: Path, n: int = 2) -> None:
    """Images and raw stuffthingmaps (0..181, 255) of val2017 and train2017."""
    for split in ("val2017", "train2017"):
        for k, image_id in enumerate(coco_ids(n, split)):
            photo(root / f"coco-stuff/images/{split}/{image_id:012d}.jpg", size_of(k), image_id)
            raw = blocks([0, 10, 12, 61, 91, 148, 181, 11 + 14 * (k % 2), 255], size_of(k), k)
            save_label(root / f"coco-stuff/annotations/{split}/{image_id:012d}.png", raw)


def coco_object(root: Path, n: int = 2) -> None:
    """instances_val2017.json: polygons that overlap, one crowd region, and no instance on the last
    image of three or more.
    """
    images, annotations = [], []
    for k, image_id in enumerate(coco_ids(n)):
        height, width = size_of(k)
        photo(root / f"coco-stuff/images/val2017/{image_id:012d}.jpg", (height, width), image_id)
        images.append(
            {"id": image_id, "file_name": f"{image_id:012d}.jpg", "height": height, "width": width}
        )
        if k == n - 1 and n > 2:
            continue
        small, large = [12, 12, 20, 12, 20, 20, 12, 20], [2, 2, 30, 2, 30, 30, 2, 30]
        for category, polygon in (
            (1 + 17 * (k % 2), small),
            (90, large),
            (62, [32, 20, 39, 20, 32, 38]),
        ):
            annotations.append(
                {
                    "category_id": category,
                    "segmentation": [polygon],
                    "iscrowd": 0,
                    "image_id": image_id,
                }
            )
        if k == 0:
            # its columns from 52 on
            runs = {"size": [height, width], "counts": [52 * height, (width - 52) * height]}
            annotations.append(
                {"category_id": 13, "segmentation": runs, "iscrowd": 1, "image_id": image_id}
            )
    annotations = [{"id": k + 1, **a} for k, a in enumerate(annotations)]
    index = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": str(k)} for k in COCO_CATEGORIES],
    }
    write_json(root / "coco-stuff/annotations/instances_val2017.json", index)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def voc2012(root: Path, n: int = 2) -> None:
    """The val images, one with a label that is not in the list, and one without a label."""
    names = [f"2007_{33 + 9 * k:06d}" for k in range(n)]
    for k, name in enumerate([*names, "2007_000032", "2011_000001"]):
        photo(root / VOC / f"JPEGImages/{name}.jpg", size_of(k), 100 + k)
        if name != "2011_000001":
            labels = blocks([0, 1, 15, 20, 255], size_of(k), k)
            save_label(root / VOC / f"SegmentationClassAug/{name}.png", labels, palette=True)
    listed = root / VOC / "ImageSets/Segmentation/val.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def context_names(n: int) -> list[str]:
    return [f"2008_{2 + k:06d}" for k in range(n)]


def context(root: Path, n: int = 2) -> None:
    """VOC 2010 with Pascal Context: masks as JSON, all 459 labels as MATLAB files, and one image of
    the training set.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for k, name in enumerate([*context_names(n), "2009_000009"]):
        height, width = size_of(k)
        photo(root / CONTEXT / f"JPEGImages/{name}.jpg", (height, width), 200 + k)
        image_id = int(name.replace("_", ""))
        images.append(
            {
                "image_id": image_id,
                "file_name": f"{name}.jpg",
                "phase": "val" if k < n else "train",
                "height": height,
                "width": width,
            }
        )
        regions = blocks(range(5), (height, width), k)
        # two classes, a rare one, nothing
        for region, category in enumerate((CONTEXT59_IDS[1 + k % 59], 7, 0, 415)):
            mask = coco_masks.encode(np.asfortranarray(regions == region, np.uint8))
            mask = {"size": mask["size"], "counts": mask["counts"].decode()}
            annotations.append(
                {"image_id": image_id, "category_id": category, "segmentation": mask}
            )
        raw = blocks([0, 1, 17, 258, 459], (height, width), k, np.uint16)
        target = root / CONTEXT / f"trainval/{name}.mat"
        target.parent.mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(target, {"LabelMap": raw})
    index = {"images": images, "annos_segmentation": annotations, "categories": []}
    write_json(root / CONTEXT / "trainval_merged.json", index)
    (root / CONTEXT / "pascalcontext_val.txt").write_text(
        "\n".join(context_names(n)), encoding="utf-8"
    )


def ade150(root: Path, n: int = 2) -> None:
    for k in range(n):
        stem = f"ADE_val_{k + 1:08d}"
        photo(root / f"ADEChallengeData2016/images/validation/{stem}.jpg", size_of(k), 300 + k)
        save_label(
            root / f"ADEChallengeData2016/annotations/validation/{stem}.png",
            blocks([0, 1, 77, 150], size_of(k), k),
        )


def ade847(root: Path, n: int = 2) -> None:
    """The full ADE20K with its index; one image of the training set is listed first."""
    rare = next(k for k in range(1, 3000) if k not in ade847_ids())
    stems = ["ADE_train_00000001", *(f"ADE_val_{k + 1:08d}" for k in range(n))]
    folders = [
        f"{ADE}/images/ADE/{'training' if 'train' in s else 'validation'}/urban/street"
        for s in stems
    ]
    for k, (folder, stem) in enumerate(zip(folders, stems, strict=True)):
        photo(root / folder / f"{stem}.jpg", size_of(k), 400 + k)
        ids = blocks(
            [0, rare, *(ade847_ids()[c] for c in (0, 5, 300, 846))], size_of(k), k, np.int32
        )
        instances = blocks([0, 60, 255], size_of(k), 50 + k)
        coded = np.stack([ids // 256 * 10, ids % 256, instances], -1).astype(np.uint8)
        Image.fromarray(coded).save(root / folder / f"{stem}_seg.png")
    presence = np.zeros((3, len(stems)), np.uint8)
    index = {
        "filename": [f"{stem}.jpg" for stem in stems],
        "folder": folders,
        "scene": ["/street"] * len(stems),
        "objectnames": ["wall", "tree", "sky"],
        "objectPresence": presence,
        "objectIsPart": presence.astype(np.float64),
        "wordnet_found": np.ones(3),
        "description": {"filename": "names"},
    }
    (root / ADE / "index_ade20k.pkl").write_bytes(pickle.dumps(index, protocol=4))


def cityscapes(root: Path, n: int = 2) -> None:
    for k in range(n):
        stem = f"frankfurt_000000_{k + 294:06d}"
        photo(
            root / f"cityscapes/leftImg8bit/val/frankfurt/{stem}_leftImg8bit.png", (32, 64), 500 + k
        )
        labels = blocks([0, 3, 7, 8, 11, 24, 26, 33], (32, 64), k)
        save_label(root / f"cityscapes/gtFine/val/frankfurt/{stem}_gtFine_labelIds.png", labels)


def cliper_context(root: Path, n: int = 2) -> None:
    """CLIPer's Pascal Context: 0 = background, 1..59, with its list."""
    for k, name in enumerate(context_names(n)):
        photo(root / CONTEXT / f"JPEGImages/{name}.jpg", size_of(k), 200 + k)
        save_label(
            root / CONTEXT / f"SegmentationClassContext/{name}.png",
            blocks([0, 1, 30, 59], size_of(k), k),
        )
    (root / CONTEXT / "context_val.txt").write_text(
        "".join(f"{name}\n" for name in context_names(n)), encoding="utf-8"
    )


def cliper_coco_object(root: Path, n: int = 2) -> None:
    """CLIPer's COCO-Object: images of val2014, 0 = background, 1..80, 255, and its list of the
    images' full names.
    """
    names = [f"COCO_val2014_{image_id:012d}" for image_id in coco_ids(n)]
    for k, name in enumerate(names):
        photo(root / f"coco2014/val2014/{name}.jpg", size_of(k), 600 + k)
        save_label(
            root / f"coco2014/coco_seg_anno/{name[-12:]}.png",
            blocks([0, 1, 40, 80, 255], size_of(k), k),
        )
    (root / "coco2014/val_5k.txt").write_text(
        "".join(f"{name}\n" for name in names), encoding="utf-8"
    )


def cliper_coco_stuff(root: Path, n: int = 2) -> None:
    """CLIPer's COCO-Stuff: class indices 0..170, and 255."""
    for k, image_id in enumerate(coco_ids(n)):
        photo(root / f"coco2017/val2017/{image_id:012d}.jpg", size_of(k), image_id)
        save_label(
            root / f"coco2017/stuff_anno164/val2017/{image_id:012d}.png",
            blocks([0, 80, 170, 255], size_of(k), k),
        )


def prepare(script: str, root: Path, *arguments: Any) -> Counts:
    """Run the conversion of ``datasets/prepare_<script>.py`` in this process."""
    return runpy.run_path(str(DATASETS / f"prepare_{script}.py"))["prepare"](root, *arguments)


def build_all(root: Path, n: int = 2) -> None:
    """Every dataset as it is published, with the conversions that have to be run before use."""
    for build in (coco_stuff, coco_object, voc2012, context, ade150, ade847, cityscapes):
        build(root, n)
    for script in ("coco_object", "pascal_context_59", "pascal_context_459", "ade20k_847"):
        prepare(script, root)


def build_cliper(root: Path, n: int = 2) -> None:
    """The three datasets that CLIPer keeps in folders of its own, ready for use."""
    for build in (cliper_context, cliper_coco_object, cliper_coco_stuff):
        build(root, n)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def run_script(
    script: str, *arguments: object, root: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``datasets/prepare_<script>.py`` as a program, where neither torch nor what needs it can
    be imported.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(DATASETS.parent),
        **({"DETECTRON2_DATASETS": str(root)} if root else {}),
    }
    command = [sys.executable, "-c", BARE, f"datasets/prepare_{script}.py", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def run_main(script: str, *arguments: object) -> str | None:
    """Run such a script in this process; its last word, None where its status is 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        try:
            runpy.run_path(str(DATASETS / f"prepare_{script}.py"), run_name="__main__")
        except SystemExit as stop:
            return None if stop.code in (None, 0) else str(stop.code)
    return None
