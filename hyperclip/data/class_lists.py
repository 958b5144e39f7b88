"""Which class names a run trains and tests on, and whether they fit the labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..vocabulary import Vocabulary, asked_names, synonym_rule
from .detectron2_catalog import registered_names, spec_of, vocabulary_of


@dataclass(frozen=True)
class TrainTask:
    """What is asked in a training step on some of its datasets, which share their classes."""

    datasets: tuple[str, ...]  # full names
    vocabulary: Vocabulary
    ignore: int  # label of pixels without a class

    @property
    def asks(self) -> dict[str, Any]:
        """What every sample of these datasets says besides its image and label."""
        return {"vocabulary": self.vocabulary, "ignore_label": self.ignore}


def train_tasks(cfg: CfgNode) -> list[TrainTask]:
    """What a training asks: an entry for each class list of DATASETS.TRAIN, in its order.

    Raises ValueError for no training set, one whose background is a class, several class lists of
    one name or with TRAIN_CLASS_JSON, a largest count that is not NUM_CLASSES, names of which one
    could not win, or an ignore label that is a class or not IGNORE_VALUE or the set's.
    """
    names = registered_names(cfg.DATASETS.TRAIN)
    if not names:
        raise ValueError("DATASETS.TRAIN is empty: name a registered dataset")
    if with_background := [name for name in names if spec_of(name).background != "none"]:
        raise ValueError(
            f"DATASETS.TRAIN: {with_background} count their background as a class without a name, "
            "which is for evaluation. Train on labels that leave it out"
        )
    sharing: dict[tuple, list[str]] = {}
    for name in names:
        sharing.setdefault(vocabulary_of(name, "catseg").classes, []).append(name)
    _check_names_of_lists([members[0] for members in sharing.values()])
    path = cfg.MODEL.SEM_SEG_HEAD.TRAIN_CLASS_JSON
    if path and len(sharing) > 1:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.TRAIN_CLASS_JSON: got {path!r} for DATASETS.TRAIN {names}, which "
            f"have {len(sharing)} class lists. Leave it empty: each dataset brings its own"
        )
    tasks = [_train_task(cfg, members) for members in sharing.values()]
    largest = max(tasks, key=lambda task: len(task.vocabulary))
    _check_head(cfg, tasks, largest)
    check_weights(cfg, names)
    return tasks


def train_vocabulary(cfg: CfgNode) -> Vocabulary:
    """Class names of a training on one class list; ValueError as :func:`train_tasks`, and for
    several lists.
    """
    tasks = train_tasks(cfg)
    if len(tasks) > 1:
        raise ValueError(f"DATASETS.TRAIN: got {len(tasks)} class lists, expected one for all sets")
    return tasks[0].vocabulary


def check_weights(cfg: CfgNode, names: Sequence[str]) -> None:
    """ValueError unless DATASETS.TRAIN_WEIGHTS is empty or has a weight above 0 for each set."""
    weights = cfg.DATASETS.TRAIN_WEIGHTS
    right = all(type(weight) in (int, float) and weight > 0 for weight in weights)
    if weights and not (right and len(weights) == len(names)):
        raise ValueError(
            f"DATASETS.TRAIN_WEIGHTS: got {list(weights)}, expected a number above 0 for each of "
            f"the {len(names)} sets {list(names)}, or [] for all images equally often"
        )


def _check_names_of_lists(datasets: Sequence[str]) -> None:
    """ValueError if datasets with different classes give their class lists the same name."""
    first: dict[str, str] = {}
    for dataset in datasets:
        name = vocabulary_of(dataset, "catseg").name
        if name in first:
            raise ValueError(
                f"DATASETS.TRAIN: {first[name]} and {dataset} both call their class list {name!r}, "
                "but their classes differ, so one label would mean two things. Give them the same "
                "classes in the same order, or the lists different names"
            )
        first[name] = dataset


def _train_task(cfg: CfgNode, names: list[str]) -> TrainTask:
    """The task of datasets with the same classes."""
    default = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    own = vocabulary_of(names[0], "catseg")
    vocabulary = _override(cfg, "TRAIN_CLASS_JSON", own, names[0])
    labels = [MetadataCatalog.get(name).get("ignore_label", default) for name in names]
    for name, label in zip(names, labels, strict=True):
        if label != labels[0]:
            raise ValueError(
                f"DATASETS.TRAIN: {names[0]} ignores the label {labels[0]} and {name} {label}, but "
                "they share their classes, so their images come in one batch. Let them ignore the "
                "same label"
            )
    return TrainTask(tuple(names), vocabulary, labels[0])


def _check_head(cfg: CfgNode, tasks: Sequence[TrainTask], largest: TrainTask) -> None:
    """ValueError if NUM_CLASSES or IGNORE_VALUE is not what the training sets have."""
    head, classes = cfg.MODEL.SEM_SEG_HEAD, len(largest.vocabulary)
    if head.NUM_CLASSES != classes:
        of_several = ", the most of all sets" if len(tasks) > 1 else ""
        counts = f"got {head.NUM_CLASSES}, dataset {largest.datasets[0]} has {classes}{of_several}"
        raise ValueError(f"MODEL.SEM_SEG_HEAD.NUM_CLASSES: {counts}")
    labels = {task.ignore for task in tasks}
    for task in tasks:
        last = len(task.vocabulary) - 1
        if head.IGNORE_VALUE not in labels or 0 <= task.ignore <= last:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE: got {head.IGNORE_VALUE}, dataset "
                f"{task.datasets[0]} ignores {task.ignore}; expected the same value, outside its "
                f"classes 0 to {last}"
            )


def test_vocabulary(cfg: CfgNode, dataset_name: str) -> Vocabulary:
    """What a model is asked on a test set: its classes of TEST.VOCABULARY, or TEST_CLASS_JSON.

    Raises ValueError for a class file whose length is not the dataset's number of classes.
    """
    own = vocabulary_of(dataset_name, cfg.TEST.VOCABULARY)
    return _override(cfg, "TEST_CLASS_JSON", own, dataset_name)


def _override(cfg: CfgNode, key: str, own: Vocabulary, dataset: str) -> Vocabulary:
    """The class file that a key names, or else a dataset's own vocabulary.

    Raises ValueError for another number of classes, or two that MODEL.SYNONYMS makes the same.
    """
    path = cfg.MODEL.SEM_SEG_HEAD[key]
    vocabulary = vocabulary_of(dataset, "catseg", path) if path else own
    if len(vocabulary) != len(own):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.{key} {path!r} has {len(vocabulary)} classes, dataset {dataset} "
            f"has {len(own)}. Leave it empty: each dataset brings its own class list"
        )
    asked_names(vocabulary, synonym_rule(cfg.MODEL.SYNONYMS, vocabulary.typed))
    return vocabulary
