"""The training loop of the quickstart's tiny models, which a killed run resumes."""

import argparse
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from ..runtime.program import program_parser

logger = logging.getLogger("hyperclip.tinyscenes")


@dataclass
class Pretraining:
    """A network, its name for the log, its optimiser, and how far its training has come.

    Attributes:
        rate: the learning rate of a step, counted from 1. seed: of the random numbers.
        state: what the last save of this training left, else {}; each save updates it in place.
        average: of the weights, if they are averaged.
    """

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    seed: int
    state: dict[str, Any]
    average: AveragedModel | None = None

    def __post_init__(self) -> None:
        self.parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer}
        if self.average is not None:
            self.parts["average"] = self.average
        for key, part in self.parts.items() if self.state else ():
            part.load_state_dict(self.state[key])

    def run(
        self,
        batch_of: Callable[[Any], Any],
        loss_of: Callable[[Any], Tensor],
        *,
        stop: int,
        save: Callable[[], None],
        every: int,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Train up to a step; gradients are clipped to a norm of 1.

        Args:
            batch_of: makes the batch of a step, counted from 0, in a process of its own.
            loss_of: the loss of a batch, a scalar.
            stop: number of steps. save: called after every ``every`` steps and the last one.
            after_step: called after each step.
        """
        first, running = self.state.get("step", 0), self.state.get("loss", 0.0)
        start = time.time() - self.state.get("seconds", 0.0)
        torch.manual_seed(self.seed + first)
        steps: Any = range(first, stop)
        batches = DataLoader(steps, batch_size=None, collate_fn=batch_of, num_workers=1)
        for done, batch in enumerate(batches, first + 1):
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(done)
            loss = loss_of(batch)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            after_step()
            if self.average is not None:
                self.average.update_parameters(self.model)
            running += (loss.item() - running) / min(done, 100)
            seconds = time.time() - start
            if done % 50 == 0:
                logger.info("%s step %d loss %.4f seconds %.0f", self.name, done, running, seconds)
            if done % every == 0 or done == stop:
                self.state |= {"step": done, "seconds": seconds, "loss": running}
                self.state |= {key: part.state_dict() for key, part in self.parts.items()}
                save()


def pretraining_parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of both trainings, with their common options."""
    parser = program_parser(description)
    parser.add_argument("--output", type=Path, required=True)
    steps = "steps of the cosine schedule that are run"
    parser.add_argument("--stop-after", type=int, default=2500, help=steps)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def saved_state(file: Path) -> dict[str, Any]:
    """What a killed run has saved, {} if nothing."""
    return torch.load(file, weights_only=True) if file.exists() else {}


def record_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """How a model is made, for its ``pretraining.json``: the command and its arguments."""
    values = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    return {"command": " ".join(["python", *sys.argv]), **values}
