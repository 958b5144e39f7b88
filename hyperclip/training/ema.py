"""An exponential moving average of the weights that train, for evaluation."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn


class WeightAverage(HookBase):
    """Averages the trainable parameters after every step; ValueError unless ``decay`` is in (0, 1).

    The decay of step n is min(``decay``, (1 + n) / (10 + n)), so that the start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            expected = "a number between 0 and 1, or 0 for no average"
            raise ValueError(f"SOLVER.EMA_DECAY: got {decay}, expected {expected}")
        self.model, self.decay, self.steps = model, decay, 0
        self.averages: dict[str, Tensor] = {}

    def before_train(self) -> None:
        if not self.averages:
            self.averages = self._copied()

    @torch.no_grad()
    def after_step(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, p in self._trained():
            self.averages[name].lerp_(p, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averages as its weights."""
        before = self._copied()
        self.model.load_state_dict(self.averages, strict=False)
        try:
            yield
        finally:
            self.model.load_state_dict(before, strict=False)

    def state_dict(self) -> dict[str, Any]:
        averages = {name: value.cpu() for name, value in self.averages.items()}
        return {"steps": self.steps, "averages": averages}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps, averages = state_dict["steps"], state_dict["averages"]
        self.averages = {n: averages[n].to(p.device, copy=True) for n, p in self._trained()}

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def _copied(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self._trained()}
