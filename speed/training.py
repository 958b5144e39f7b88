"""One optimiser step against the same step written out."""

from __future__ import annotations

import torch
from hyperclip.data.class_lists import train_vocabulary
from hyperclip.training.optimizer import build_optimizer
from torch import Tensor

from reference import training
from speed.measuring import Row, Settings, compare
from speed.models import build_hyperclip


def train(settings: Settings) -> list[Row]:
    """One row: a step from the same weights both times, so that the losses are to be equal."""
    cfg, model = build_hyperclip(settings)
    model.train().train_vocabulary = train_vocabulary(cfg)
    image, target = training.random_image(model, model.resolution[0])
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def begin() -> torch.optim.Optimizer:
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.requires_grad:
                    p.copy_(start[name])
                    p.grad = None
        return build_optimizer(cfg, model)

    def ours() -> Tensor:
        optimizer = begin()
        loss = model([{"image": image, "sem_seg": target}])["loss_sem_seg"]
        loss.backward()
        optimizer.step()
        return loss.detach()

    def obvious() -> Tensor:
        return training.step(model, begin(), image, target)

    return compare(
        "train", f"{len(model.train_vocabulary)} classes, batch 1", obvious, ours, settings
    )
