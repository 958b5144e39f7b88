"""What an evaluation asks of each image: all names of its dataset, or those in its labels alone.

Under TEST.ASK "present" a model chooses among the names that the image's labels hold, so its mIoU
says how well it finds where they are, not which. It is another figure than the usual one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor

from ..data import class_lists, label_maps, registry
from ..labels import NO_CLASS
from ..segmenter import Question
from ..vocabulary import asked_names, synonym_rule
from ..vocabulary.names import tokens_of

ALL, PRESENT = "all", "present"
"""Values of TEST.ASK."""


def background_rule(dataset: str) -> str:
    """The background rule of a registered dataset; "none" for one that Detectron2 alone knows."""
    return registry.DATASETS[dataset].background if dataset in registry.DATASETS else "none"


def dataset_question(cfg: CfgNode, dataset: str) -> Question:
    """All that is asked of the images of a dataset; ValueError as by :func:`test_vocabulary`."""
    background = "own"
    if background_rule(dataset) == "threshold":
        wish = cfg.TEST.BACKGROUND
        background = "threshold" if wish == "dataset" else wish
    return Question(class_lists.test_vocabulary(cfg, dataset), background)


@dataclass(frozen=True)
class Asked:
    """What is asked of one image, and how its answer is counted.

    Attributes:
        question: None if nothing is left to ask, since background alone is there.
        prompts: (t,), the place of each name asked in the dataset's whole vocabulary.
        background: the rule for this image: "none" where it has none.
        truth: the image's labels (H, W).
    """

    question: Question | None
    prompts: Tensor
    background: str
    truth: Tensor

    def in_whole_vocabulary(self, answer: Tensor) -> Tensor:
        """The answer (H, W) as places in the whole vocabulary; ``NO_CLASS`` stays."""
        if self.question is None:
            return answer
        places = self.prompts.to(answer.device)[answer.clamp_min(0)]
        return torch.where(answer == NO_CLASS, NO_CLASS, places)

    def without_asking(self) -> dict[str, Tensor]:
        """The answer where there is no question: no pixel has a class."""
        return {"sem_seg_labels": torch.full_like(self.truth, NO_CLASS, dtype=torch.int64)}


class PresentNames:
    """Asks of each image the names in its labels alone.

    A background counts as present if its label is there. Then the background words are asked too
    ("fold"), or pixels may get no class ("threshold"). Where it is not, the image has no
    background: a pixel without a class is missed, as in a dataset without one. Of classes that are
    asked by the same name the first counts, which is the one that could win among all.
    """

    def __init__(self, cfg: CfgNode, dataset: str) -> None:
        meta = MetadataCatalog.get(dataset)
        self.dataset, self.classes, self.ignore = (
            dataset,
            len(meta.stuff_classes),
            meta.ignore_label,
        )
        self.whole, self.background = dataset_question(cfg, dataset), background_rule(dataset)
        if self.whole.background == "other":
            raise ValueError(
                "TEST.BACKGROUND 'other' with TEST.ASK 'present': the mean of one or two names "
                "says little; expected 'all', or another background"
            )
        vocabulary = self.whole.vocabulary
        rule = synonym_rule(cfg.MODEL.SYNONYMS, vocabulary.typed)
        self._names = [frozenset(map(tokens_of, names)) for names in asked_names(vocabulary, rule)]

    def __call__(self, record: Mapping) -> Asked | None:
        """What is asked of the image of one of Detectron2's records, None if no label counts;
        raises what :func:`read_record_label` does, and ValueError for a label that is no class.
        """
        truth = torch.from_numpy(label_maps.read_record_label(record))
        present = [k for k in truth.unique().tolist() if k != self.ignore]
        if wrong := [k for k in present if not 0 <= k < self.classes]:
            raise ValueError(
                f"dataset {self.dataset}, {record['sem_seg_file_name']}: label: got values "
                f"{wrong[:5]}, expected 0 to {self.classes - 1} or the ignore value {self.ignore}"
            )
        if not present:
            return None
        names, rule = present, "none"
        if self.background != "none" and present[-1] == self.classes - 1:
            names, rule = present[:-1], self.background
            if rule == "fold":
                names = [*names, *range(self.classes - 1, len(self._names))]
        prompts = list({self._names[k]: k for k in reversed(names)}.values())[::-1]
        question = None
        if prompts:
            chosen = self.whole.vocabulary.part(prompts)
            background = self.whole.background if rule == "threshold" else "own"
            question = replace(self.whole, vocabulary=chosen, background=background)
        return Asked(question, torch.tensor(prompts, dtype=torch.int64), rule, truth)
