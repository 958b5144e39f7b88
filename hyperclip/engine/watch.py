"""Hooks that look at a training while it runs: what gets no gradient, and a loss that does not fall."""

from __future__ import annotations

import logging
import statistics

import torch
from detectron2.engine import HookBase
from torch import nn

from ..adapters import adapters

logger = logging.getLogger("hyperclip.engine")


class FirstGradients(HookBase):
    """After the first step: which trainable parameters got no gradient, or only zeros. It says so once, in the log."""

    def __init__(self) -> None:
        self.done = False

    def after_step(self) -> None:
        if self.done:
            return
        self.done = True
        without = parameters_without_gradient(self.trainer.model)
        trainable = sum(p.requires_grad for p in self.trainer.model.parameters())
        if not without:
            logger.info("All %d trainable parameters got a gradient", trainable)
            return
        logger.warning(
            "%d of %d trainable parameters got no gradient in the first step: %s. That is right for q and k of the image "
            "tower's last block, which only gives values, and for the inner factors of lora and relations, which start at zero",
            len(without), trainable, ", ".join(without),
        )  # fmt: skip


def parameters_without_gradient(model: nn.Module) -> list[str]:
    """Names of trainable parameters whose gradient is missing or zero everywhere."""
    return [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


class LossWatch(HookBase):
    """A warning when the median loss of the latest iterations is not below that of the first ones.

    Args:
        after: iterations between two looks; 0 for none.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self.first: float | None = None

    def after_step(self) -> None:
        done = self.trainer.iter + 1 - self.trainer.start_iter
        if not self.after or done % self.after:
            return
        history = self.trainer.storage.histories().get("total_loss")
        if history is None:
            return
        recent = statistics.median(value for value, _ in history.values()[-max(1, self.after // 2) :])
        if self.first is None:
            self.first = recent
        elif recent >= self.first:
            logger.warning(
                "The loss has not fallen after %d iterations: median %.4g, %.4g at the start. Check the class list against the "
                "labels (tools/check_datasets.py --histogram), SOLVER.BASE_LR and SOLVER.CLIP_MULTIPLIER",
                done, recent, self.first,
            )  # fmt: skip


class AdapterDistance(HookBase):
    """Writes how far the adapters are from the identity, by tower: mean Frobenius norm of what they change in their weights.

    Args:
        period: iterations between two values.
    """

    def __init__(self, period: int) -> None:
        self.period = period

    @torch.no_grad()
    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.period:
            return
        for encoder, distance in adapter_distances(self.trainer.model).items():
            self.trainer.storage.put_scalar(f"adapter_distance/{encoder}", distance, smoothing_hint=False)


def adapter_distances(model: nn.Module) -> dict[str, float]:
    """Mean over a tower's blocks of ||W' - W|| / ||W||, for the towers that have adapters."""
    found: dict[str, list[float]] = {}
    for name, _ in adapters(model):
        if not name.endswith(".0"):  # the first of a chain on one weight; the others are in its result
            continue
        owner, weight = name.split(".parametrizations.")
        module, weight = model.get_submodule(owner), weight.split(".")[0]
        original = getattr(module.parametrizations, weight).original
        change = (getattr(module, weight) - original).norm() / original.norm().clamp_min(1e-12)
        found.setdefault("vision" if ".visual." in f".{name}" else "text", []).append(change.item())
    return {encoder: statistics.fmean(values) for encoder, values in found.items()}
