"""What is decided for a whole batch, before micro-batches and processes share it: its size after
padding, its classes.

A loss is the mean over the pixels and classes of its images. Parts of a batch give the gradient of
the whole only where each of them is padded to the same size and asks for the same classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn

from ..head.loss import choose_classes, present_classes
from ..segmenter import bare


def decide_for_all(batch: list[dict], model: nn.Module) -> list[dict]:
    """Copies of the records of this process's part of a batch, with what all parts have in common;
    all processes call it.

    Args:
        batch: records with "image" (3, H, W) and "sem_seg" (H, W). model: trained;
            ``sampled_classes`` of it, where it has such, is how many classes a step takes.
    Returns:
        records that also have "padded_size", the largest (height, width) of all images, and, where
            classes are sampled,
        "sampled_classes", their indices (t,), ascending.
    Raises:
        ValueError: a label that is neither a class nor ignored.
    """
    system: Any = bare(model)
    height, width = (max(x["image"].shape[i] for x in batch) for i in (1, 2))
    count = system.sampled_classes
    classes = len(system.train_vocabulary) if count else 0
    if count >= classes:
        classes = 0
    own = torch.zeros(classes, dtype=torch.bool)
    for record in batch if classes else ():
        own |= present_classes(record["sem_seg"], classes, system.ignore).to(own.device)
    joined = _largest(torch.tensor([height, width, *own.tolist()]))
    common: dict[str, Any] = {"padded_size": (int(joined[0]), int(joined[1]))}
    if classes:
        present = joined[2:].to(next(model.parameters()).device, torch.bool)
        common["sampled_classes"] = _of_main_process(choose_classes(present, count))
    return [record | common for record in batch]


def group_device() -> str:
    """Where tensors have to be that processes exchange."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def _largest(values: Tensor) -> Tensor:
    """The largest of the processes' values, each by itself."""
    if comm.get_world_size() == 1:
        return values
    values = values.to(group_device())
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def _of_main_process(values: Tensor) -> Tensor:
    """The main process's values, of whose number all have as many."""
    if comm.get_world_size() == 1:
        return values
    shared = values.to(group_device())
    dist.broadcast(shared, 0)
    return shared.to(values.device)
