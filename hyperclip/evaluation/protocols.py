"""From what a model answers to what is counted: the background rules of the datasets.

A model answers with the index of a prompt, or with ``NO_CLASS``. A dataset's labels are its classes
0..T-1, the last of which is the background where the dataset has one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.registry import DATASETS
from ..labels import NO_CLASS


def background_rule(dataset: str) -> str:
    """The background rule of a registered dataset; "none" for one that Detectron2 alone knows."""
    return DATASETS[dataset].background if dataset in DATASETS else "none"


def answered_labels(output: dict[str, Tensor]) -> Tensor:
    """Prompt indices (H, W): "sem_seg_labels", or the best of the scores "sem_seg" (P, H, W)."""
    return output["sem_seg_labels"] if "sem_seg_labels" in output else output["sem_seg"].argmax(0)


def to_dataset_labels(answer: Tensor, classes: int, background: str) -> Tensor:
    """Translate prompt indices (H, W) into a dataset's labels.

    Args:
        answer: 0..P-1 or ``NO_CLASS``.
        classes: T, the background included where there is one.
        background: "none" leaves everything as it is, ``NO_CLASS`` included; "threshold" makes
            ``NO_CLASS`` the background T-1; "fold" does the same with every prompt from T-1 on.
    """
    if background == "none":
        return answer
    folded = answer == NO_CLASS
    if background == "fold":
        folded = folded | (answer >= classes - 1)
    return torch.where(folded, classes - 1, answer)


def protocol_name(background: str, abstains: bool) -> str:
    """What results call a protocol: "argmax", "abstain", "threshold" or "fold"."""
    return background if background != "none" else "abstain" if abstains else "argmax"
