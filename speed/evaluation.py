"""Evaluating images from files, against the networks alone and against whole score maps counted
class by class.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from detectron2.data import DatasetCatalog
from hyperclip.adapters import merge
from hyperclip.data import SemSegMapper
from hyperclip.data.dataset_file import register_files
from hyperclip.data.label_maps import read_record_label
from hyperclip.evaluation.asking import dataset_question
from hyperclip.evaluation.running import evaluate_dataset
from hyperclip.vocabulary import builtin
from PIL import Image
from torch import Tensor

from speed.measuring import Row, Settings, Stopwatch, compare
from speed.models import build_hyperclip

SIZE = (512, 683)
"""Height and width of the images, the median of ADE20K's."""


@torch.no_grad()
def evaluate(settings: Settings) -> list[Row]:
    """One row: two images, on a GPU eight, and 150 classes. "floor_ratio" says what reading,
    merging and counting add to the networks.
    """
    count = 8 if settings.device.type == "cuda" else 2
    names = list(builtin("ade150").names)[: 5 if settings.smoke else None]
    with tempfile.TemporaryDirectory() as folder:
        (spec,) = register_files(
            [write_images(Path(folder), names, (96, 120) if settings.smoke else SIZE, count)]
        )
        model: Any
        cfg, model = build_hyperclip(
            settings, "TEST.SLIDING_WINDOW", "True", "DATALOADER.NUM_WORKERS", "0"
        )
        merge(model)
        records, mapper = DatasetCatalog.get(spec.name), SemSegMapper(cfg, is_train=False)
        question = replace(dataset_question(cfg, spec.name), scores=True)

        def ours() -> Tensor:
            scores = evaluate_dataset(cfg, model, spec.name, records=records).scores
            return torch.tensor([scores[f"IoU-{name}"] for name in names])

        def obvious() -> Tensor:
            counts = np.zeros((len(names), len(names)), np.int64)
            for record in records:
                (answer,) = model([{**mapper(record), "question": question}])
                prediction = answer["sem_seg"].argmax(dim=0).cpu().numpy()
                np.add.at(
                    counts,
                    (read_record_label(record).astype(np.int64).ravel(), prediction.ravel()),
                    1,
                )
            union = counts.sum(0) + counts.sum(1) - counts.diagonal()
            return torch.from_numpy(100 * counts.diagonal() / union).float()

        networks, head = Stopwatch(settings.device), model.sem_seg_head
        model.encode_views = networks.around(model.encode_views)
        head.prepare, head.infer = networks.around(head.prepare), networks.around(head.infer)
        case = f"{len(records)} images of {len(names)} classes, windows"
        return compare("evaluate", case, obvious, ours, settings, passes=networks)


def write_images(folder: Path, names: list[str], size: tuple[int, int], count: int) -> Path:
    """Images of noise as JPEG files with labels that hold every class, and the YAML file that
    describes them.
    """
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for k in range(count):
        label = np.arange(size[0] * size[1], dtype=np.int64).reshape(size) // 7 % len(names)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"images/{k}.jpg")
        Image.fromarray(label.astype(np.uint8)).save(folder / f"labels/{k}.png")
    path, folders = folder / "noise.yaml", {"images": "images", "labels": "labels"}
    path.write_text(
        yaml.safe_dump({"name": "noise", "splits": {"val": folders}, "classes": names}),
        encoding="utf-8",
    )
    return path
