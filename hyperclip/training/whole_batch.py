"""What holds for a whole batch although micro-batches and processes share it.

A loss is the mean over the pixels and classes of its images. The gradients of a batch's parts add
up to that of the whole only if all parts are padded to the same size and ask for the same classes.
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
    """Copies of this process's records with what all parts of the batch share; all processes call
    it.

    Args:
        batch: records with "image" (3, H, W) and "sem_seg" (H, W).
        model: trained; its ``sampled_classes`` is how many classes a step takes, 0 for all.
    Returns:
        the records with "padded_size", the largest (height, width) of all images, and, where
            classes are sampled, "sampled_classes", their indices (t,), ascending.
    Raises:
        ValueError: a label that is neither a class nor ignored.
    """
    system: Any = bare(model)
    height, width = (max(x["image"].shape[i] for x in batch) for i in (1, 2))
    count = system.sampled_classes
    classes = len(system.train_vocabulary) if count else 0
    if count >= classes:
        classes = 0
    present = torch.zeros(classes, dtype=torch.bool)
    for record in batch if classes else ():
        present |= present_classes(record["sem_seg"], classes, system.ignore).to(present.device)
    joined = largest_of_all(torch.tensor([height, width, *present.tolist()]))
    common: dict[str, Any] = {"padded_size": (int(joined[0]), int(joined[1]))}
    if classes:
        present = joined[2:].to(next(model.parameters()).device, torch.bool)
        common["sampled_classes"] = _of_main_process(choose_classes(present, count))
    return [record | common for record in batch]


def largest_of_all(values: Tensor) -> Tensor:
    """The elementwise maximum over all processes, which all have to call it."""
    if comm.get_world_size() == 1:
        return values
    values = values.to(_exchange_device())
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def _of_main_process(values: Tensor) -> Tensor:
    """The values of the main process; on the others ``values`` only has the same shape."""
    if comm.get_world_size() == 1:
        return values
    shared = values.to(_exchange_device())
    dist.broadcast(shared, 0)
    return shared.to(values.device)


def _exchange_device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
