"""Checks before the first image: datasets, class lists, the metric of the best model."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from ..adapters import adapter_names
from ..data import DATASETS, class_lists, registered_names
from ..evaluation.running import build_test_loader
from ..segmenter import bare
from .checkpoint_hooks import split_metric

SCORES = ("mIoU", "mIoU_old", "pACC", "mACC", "images")
"""What every evaluation reports, besides the IoU of each class."""


def check_training(cfg: CfgNode) -> None:
    """FileNotFoundError or ValueError if a training set, or what :func:`check_test_sets` checks, is
    unknown, absent or incomplete, its classes do not fit, TEST.BEST_METRIC is no score, or the
    adapters that should train are merged.
    """
    named = adapter_names(cfg.MODEL.SEM_SEG_HEAD.CLIP_FINETUNE)
    if cfg.MODEL.ADAPTER.MERGED and named:
        raise ValueError(
            f"MODEL.ADAPTER.MERGED: got True, but the adapters {named} cannot train on once they "
            "are merged into CLIP. Start from the checkpoint of their training or from what "
            "save_pretrained(FOLDER, only='trained') wrote; CLIP_FINETUNE none trains the head"
        )
    if cfg.TEST.BANK.FILE:
        raise ValueError(
            f"TEST.BANK.FILE: got {cfg.TEST.BANK.FILE!r} in a training, which makes another model, "
            "expected ''. Build the bank of its last checkpoint, and evaluate with --eval-only"
        )
    class_lists.train_tasks(cfg)
    for name in registered_names(cfg.DATASETS.TRAIN):
        _check_records(name, DatasetCatalog.get(name))
    check_test_sets(cfg)
    best_metric(cfg)


def check_test_sets(cfg: CfgNode) -> None:
    """FileNotFoundError or ValueError if a dataset of DATASETS.TEST is unknown, absent or
    incomplete, has no ignore label, its class list does not fit, or a loader cannot be built.
    """
    for name in registered_names(cfg.DATASETS.TEST):
        _check_metadata(name)
        class_lists.test_vocabulary(cfg, name)
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
        expected = ""
        if len(entry) != 4 or entry[0] not in known:
            expected = f"[dataset, score, value, tolerance] with a dataset of {sorted(known)}"
        elif entry[1] not in scores and not str(entry[1]).startswith("IoU-"):
            expected = f"as score one of {scores} or IoU-CLASS"
        if expected:
            raise ValueError(f"TEST.EXPECTED_RESULTS: got {list(entry)}, expected {expected}")


def check_model(cfg: CfgNode, model: nn.Module) -> None:
    """ValueError if the model's text tower cannot take a class name of DATASETS.TEST."""
    for name in registered_names(cfg.DATASETS.TEST):
        bare(model).check(class_lists.test_vocabulary(cfg, name))


def best_metric(cfg: CfgNode) -> str:
    """TEST.BEST_METRIC with a dataset's full name for its alias; "" if nothing is evaluated;
    ValueError if an evaluation on DATASETS.TEST has no such score.
    """
    names = registered_names(cfg.DATASETS.TEST)
    if not names or not cfg.TEST.BEST_METRIC:
        return ""
    dataset, score = split_metric(cfg.TEST.BEST_METRIC)
    if dataset not in names:
        dataset = {s.alias: s.name for s in DATASETS.values()}.get(dataset, dataset)
    scores, of_class = _scores(cfg), score.startswith("IoU-")
    got = f"TEST.BEST_METRIC: got {cfg.TEST.BEST_METRIC!r}"
    if (dataset and dataset not in names) or not (of_class or score in scores):
        expected = f"one of {scores}, or DATASET/SCORE with a dataset of {names}"
        raise ValueError(f"{got}, expected {expected}")
    for name in [dataset] if dataset else names:
        classes = [f"IoU-{n}" for n in MetadataCatalog.get(name).stuff_classes]
        if of_class and score not in classes:
            got += f", but dataset {name} has no class {score[4:]!r}"
            raise ValueError(f"{got}; expected one of {classes[:5]} …, or of {scores}")
    return f"{dataset}/{score}" if dataset else score


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
    label, last = meta.ignore_label, len(meta.stuff_classes) - 1
    if type(label) is not int or 0 <= label <= last:
        expected = f"a whole number that is none of its classes 0 to {last}, such as 255"
        raise ValueError(f"dataset {name}: ignore_label: got {label!r}, expected {expected}")


def _check_records(name: str, records: list[dict]) -> None:
    if not records:
        raise ValueError(f"dataset {name}: got no image, expected at least one")
    for key in ("file_name", "sem_seg_file_name"):
        without = [k for k, record in enumerate(records) if key not in record]
        if without:
            expected = f"expected it in each of the {len(records)}"
            raise ValueError(f"dataset {name}: record {without[0]} has no {key!r}, {expected}")
