"""What can be known before the first image is checked before it: datasets, class lists, the metric
of the best checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from ..checkpoints.checkpointer import read_checkpoint
from ..data import DATASETS, registered_names
from ..data.class_lists import test_vocabulary, train_vocabulary
from ..evaluation.running import build_test_loader
from ..segmenter import bare
from .checkpoint_hooks import metric_of, split_metric

SCORES = ("mIoU", "mIoU_old", "pACC", "mACC", "images")
"""What every evaluation finds, besides the IoU of each class."""


def check_training(cfg: CfgNode) -> None:
    """Check what a training needs, and what its evaluations will need.

    Raises:
        FileNotFoundError, ValueError: a dataset that is unknown, absent or incomplete, classes that
            do not fit its labels, no such score.
    """
    train_vocabulary(cfg)
    for name in registered_names(cfg.DATASETS.TRAIN):
        _check_records(name, DatasetCatalog.get(name))
    check_test_sets(cfg)
    best_metric(cfg)


def check_test_sets(cfg: CfgNode) -> None:
    """Check that every dataset of DATASETS.TEST can be evaluated.

    Raises:
        FileNotFoundError, ValueError: one that is unknown, absent or incomplete, a class list that
            does not fit, no ignore label, a loader that cannot be built.
    """
    for name in registered_names(cfg.DATASETS.TEST):
        _check_metadata(name)
        test_vocabulary(cfg, name)
        records = DatasetCatalog.get(name)
        _check_records(name, records)
        if cfg.TEST.IMS_PER_BATCH < 1:
            raise ValueError(
                f"TEST.IMS_PER_BATCH: got {cfg.TEST.IMS_PER_BATCH}, expected at least 1"
            )
        build_test_loader(cfg, records)
    check_expected(cfg)


def check_expected(cfg: CfgNode) -> None:
    """ValueError unless each entry of TEST.EXPECTED_RESULTS names a dataset and a score."""
    names = registered_names(cfg.DATASETS.TEST)
    known = {*names, *(DATASETS[n].alias for n in names if n in DATASETS)}
    known |= {"sem_seg"} if len(names) == 1 else set()
    for entry in cfg.TEST.EXPECTED_RESULTS:
        scores = (*SCORES, "boundary_mIoU") if cfg.TEST.BOUNDARY_IOU else SCORES
        if len(entry) != 4 or entry[0] not in known:
            raise ValueError(
                f"TEST.EXPECTED_RESULTS: got {list(entry)}, expected [dataset, score, value, "
                f"tolerance] with a dataset of {sorted(known)}"
            )
        if entry[1] not in scores and not str(entry[1]).startswith("IoU-"):
            raise ValueError(
                f"TEST.EXPECTED_RESULTS: got the score {entry[1]!r}, expected one of "
                f"{list(scores)} or IoU-CLASS"
            )


def check_weights(cfg: CfgNode) -> None:
    """FileNotFoundError if MODEL.WEIGHTS names a local file that is not there."""
    path = cfg.MODEL.WEIGHTS
    if path and "://" not in path and not Path(path).is_file():
        read_checkpoint(path)  # raises with advice


def check_model(cfg: CfgNode, model: nn.Module) -> None:
    """Check that a model can be asked what the datasets of DATASETS.TEST ask.

    Raises:
        ValueError: a class name that its text tower cannot take.
    """
    for name in registered_names(cfg.DATASETS.TEST):
        bare(model).check(test_vocabulary(cfg, name))


def best_metric(cfg: CfgNode) -> str:
    """TEST.BEST_METRIC with a dataset's full name for its alias; "" if nothing is evaluated.

    Raises:
        ValueError: an evaluation on DATASETS.TEST has no such score.
    """
    names = registered_names(cfg.DATASETS.TEST)
    if not names or not cfg.TEST.BEST_METRIC:
        return ""
    dataset, score = split_metric(cfg.TEST.BEST_METRIC)
    if dataset and dataset not in names:
        known = {spec.alias: spec.name for spec in DATASETS.values()}
        dataset = known.get(dataset, dataset)
    metric = f"{dataset}/{score}" if dataset else score
    found: dict[str, dict[str, float]] = {}
    for name in names:
        found[name] = dict.fromkeys(SCORES, 0.0) | (
            {"boundary_mIoU": 0.0} if cfg.TEST.BOUNDARY_IOU else {}
        )
        classes = [f"IoU-{n}" for n in MetadataCatalog.get(name).stuff_classes]
        if score.startswith("IoU-") and dataset in ("", name) and score not in classes:
            raise ValueError(
                f"TEST.BEST_METRIC: got {cfg.TEST.BEST_METRIC!r}, but dataset {name} has no class "
                f"{score[4:]!r}; expected one of {classes[:5]} …, or of {list(found[name])}"
            )
    metric_of(found, metric)
    return metric


def _check_metadata(name: str) -> None:
    meta: Any = MetadataCatalog.get(name)
    missing = [
        key for key in ("stuff_classes", "ignore_label") if getattr(meta, key, None) in (None, [])
    ]
    if missing:
        raise ValueError(
            f"dataset {name}: got no {' and no '.join(missing)} in Detectron2's MetadataCatalog, "
            f"expected both. Set them: MetadataCatalog.get({name!r}).set(stuff_classes=[names], "
            "ignore_label=255)"
        )
    classes = len(meta.stuff_classes)
    if type(meta.ignore_label) is not int or 0 <= meta.ignore_label < classes:
        raise ValueError(
            f"dataset {name}: ignore_label: got {meta.ignore_label!r}, expected a whole number "
            f"that is none of its classes 0 to {classes - 1}, such as 255"
        )


def _check_records(name: str, records: list[dict]) -> None:
    if not records:
        raise ValueError(f"dataset {name}: got no image, expected at least one")
    for key in ("file_name", "sem_seg_file_name"):
        without = next((k for k, record in enumerate(records) if key not in record), None)
        if without is not None:
            raise ValueError(
                f"dataset {name}: record {without} has no {key!r}, expected it in each of the "
                f"{len(records)}"
            )
