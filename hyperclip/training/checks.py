"""Checks before the first image: datasets, class lists, the metric of the best model."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from ..data import DATASETS, registered_names
from ..data.class_lists import test_vocabulary, train_vocabulary
from ..evaluation.running import build_test_loader
from ..segmenter import bare
from .checkpoint_hooks import metric_of, split_metric

SCORES = ("mIoU", "mIoU_old", "pACC", "mACC", "images")
"""What every evaluation reports, besides the IoU of each class."""


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
        build_test_loader(cfg, records)
    check_expected(cfg)


def check_expected(cfg: CfgNode) -> None:
    """ValueError unless each entry of TEST.EXPECTED_RESULTS names a dataset and a score."""
    names = registered_names(cfg.DATASETS.TEST)
    known = {*names, *(DATASETS[n].alias for n in names if n in DATASETS)}
    if len(names) == 1:
        known.add("sem_seg")
    scores = _scores(cfg)
    for entry in cfg.TEST.EXPECTED_RESULTS:
        if len(entry) != 4 or entry[0] not in known:
            raise ValueError(
                f"TEST.EXPECTED_RESULTS: got {list(entry)}, expected [dataset, score, value, "
                f"tolerance] with a dataset of {sorted(known)}"
            )
        if entry[1] not in scores and not str(entry[1]).startswith("IoU-"):
            raise ValueError(
                f"TEST.EXPECTED_RESULTS: got the score {entry[1]!r}, expected one of "
                f"{scores} or IoU-CLASS"
            )


def check_model(cfg: CfgNode, model: nn.Module) -> None:
    """ValueError if the model's text tower cannot take a class name of DATASETS.TEST."""
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
    scores = _scores(cfg)
    for name in names:
        classes = [f"IoU-{n}" for n in MetadataCatalog.get(name).stuff_classes]
        if score.startswith("IoU-") and dataset in ("", name) and score not in classes:
            raise ValueError(
                f"TEST.BEST_METRIC: got {cfg.TEST.BEST_METRIC!r}, but dataset {name} has no class "
                f"{score[4:]!r}; expected one of {classes[:5]} …, or of {scores}"
            )
    metric = f"{dataset}/{score}" if dataset else score
    metric_of({name: dict.fromkeys(scores, 0.0) for name in names}, metric)  # raises if unknown
    return metric


def _scores(cfg: CfgNode) -> list[str]:
    return [*SCORES, *(["boundary_mIoU"] if cfg.TEST.BOUNDARY_IOU else [])]


def _check_metadata(name: str) -> None:
    meta: Any = MetadataCatalog.get(name)
    needed = ("stuff_classes", "ignore_label")
    missing = [key for key in needed if getattr(meta, key, None) in (None, [])]
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
