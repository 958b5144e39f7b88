"""Which class names a run trains and tests on, and whether they fit the labels."""

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..vocabulary import Vocabulary, asked_names, synonym_rule
from .detectron2_catalog import registered_names, spec_of, vocabulary_of


def train_vocabulary(cfg: CfgNode) -> Vocabulary:
    """Class names of the training sets, or of MODEL.SEM_SEG_HEAD.TRAIN_CLASS_JSON.

    Raises ValueError for no training set, sets with different classes, a count that is not
    NUM_CLASSES, or an ignore value that is a class or not the dataset's.
    """
    head, names = cfg.MODEL.SEM_SEG_HEAD, registered_names(cfg.DATASETS.TRAIN)
    if not names:
        raise ValueError("DATASETS.TRAIN is empty: name a registered dataset")
    if with_background := [name for name in names if spec_of(name).background != "none"]:
        raise ValueError(
            f"DATASETS.TRAIN: {with_background} count their background as a class without a name, "
            "which is for evaluation. Train on labels that leave it out"
        )
    own = [vocabulary_of(name, "catseg") for name in names]
    if any(v.classes != own[0].classes for v in own):
        problem = "their class lists differ, so one label would mean two things"
        raise ValueError(f"DATASETS.TRAIN {names}: {problem}")
    vocabulary = _override(cfg, "TRAIN_CLASS_JSON", own[0], names[0])
    if head.NUM_CLASSES != len(vocabulary):
        counts = f"got {head.NUM_CLASSES}, dataset {names[0]} has {len(vocabulary)}"
        raise ValueError(f"MODEL.SEM_SEG_HEAD.NUM_CLASSES: {counts}")
    for name in names:
        ignore = MetadataCatalog.get(name).get("ignore_label", head.IGNORE_VALUE)
        if ignore != head.IGNORE_VALUE or 0 <= ignore < len(vocabulary):
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE: got {head.IGNORE_VALUE}, dataset {name} ignores "
                f"{ignore}; expected the same value, outside its classes 0 to {len(vocabulary) - 1}"
            )
    return vocabulary


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
