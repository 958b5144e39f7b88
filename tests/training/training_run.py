"""A training that writes down what it does, and can be killed at an iteration; to be run as a
program.

    python -m tests.training.training_run --config-file FILE --record FILE \\
        [--kill-at 7] [--double] [--resume] [KEY VALUE …]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import cliper  # noqa: F401  (registers CLIPer and its keys)
import torch
from detectron2.engine import HookBase, default_argument_parser
from detectron2.utils import comm
from hyperclip.config.keys import load_config
from hyperclip.evaluation import SemSegEvaluator
from hyperclip.training import Trainer, checkpoint_hooks, setup_run
from hyperclip.training.launch import launch_processes


class Record(HookBase):
    """Appends a line for each iteration: loss, norm of the gradient, learning rates, samples, a
    number of torch's own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def before_train(self) -> None:
        loop = self.trainer._trainer
        backward = loop._backward

        def noted(batch: list[dict]) -> dict:
            self.batch = [
                (x["position"], Path(x["file_name"]).name, x["image"].sum().item()) for x in batch
            ]
            return backward(batch)

        loop._backward = noted

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        line = {
            "iteration": self.trainer.iter,
            "loss": latest["total_loss"][0] if comm.is_main_process() else None,
            "norm": latest["gradient_norm"][0],
            "rates": sorted({group["lr"] for group in self.trainer.optimizer.param_groups}),
            "batch": self.batch,
            "random": torch.rand(()).item(),
        }
        with self.path.with_suffix(f".{comm.get_rank()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


class KillInEvaluation:
    """Sends the last process a signal before it counts so many images, in whatever evaluation that
    is.
    """

    def __init__(self, images: int, number: int) -> None:
        process, seen = SemSegEvaluator.process, 0

        def noted(evaluator: SemSegEvaluator, inputs: list[dict], outputs: list[dict]) -> None:
            nonlocal seen
            seen += len(inputs)
            if seen - len(inputs) < images <= seen and comm.get_rank() == comm.get_world_size() - 1:
                os.kill(os.getpid(), number)
            process(evaluator, inputs, outputs)

        SemSegEvaluator.process = noted


class Break(HookBase):
    """Makes the weights infinite before the step of an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            with torch.no_grad():
                next(p for p in self.trainer.model.parameters() if p.requires_grad).fill_(
                    float("inf")
                )


class Kill(HookBase):
    """Sends this process a signal in the middle of an iteration, before its step."""

    def __init__(self, iteration: int, number: int) -> None:
        self.iteration, self.number = iteration, number

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration and comm.get_rank() == comm.get_world_size() - 1:
            os.kill(os.getpid(), self.number)


def main(arguments: argparse.Namespace) -> None:
    cfg = load_config(arguments.config_file, arguments.opts)
    cfg.freeze()
    torch.set_num_threads(1)
    if arguments.double:
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float, torch.nn.Module.float = torch.Tensor.double, torch.nn.Module.double
    setup_run(cfg, arguments)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=arguments.resume)
    if arguments.kill_at_image > 0:
        checkpoint_hooks.GRACE = arguments.grace
        KillInEvaluation(arguments.kill_at_image, getattr(signal, arguments.signal))
    broken = [Break(arguments.break_at)] if arguments.break_at >= 0 else []
    trainer.register_hooks(broken)
    first = (
        [Kill(arguments.kill_at, getattr(signal, arguments.signal))]
        if arguments.kill_at >= 0
        else []
    )
    trainer.register_hooks([*first, Record(Path(arguments.record))])
    trainer._hooks = trainer._hooks[-len(first) - 1 :] + trainer._hooks[: -len(first) - 1]
    trainer.train()


def make_parser() -> argparse.ArgumentParser:
    parser = default_argument_parser()
    parser.add_argument("--record", required=True)
    parser.add_argument("--kill-at", type=int, default=-1)
    parser.add_argument("--signal", default="SIGKILL")
    parser.add_argument(
        "--kill-at-image", type=int, default=0, help="of all evaluations, the first is 1"
    )
    parser.add_argument(
        "--grace", type=float, default=0.0, help="seconds that a killed evaluation goes on"
    )
    parser.add_argument(
        "--break-at", type=int, default=-1, help="iteration whose weights become infinite"
    )
    parser.add_argument(
        "--double", action="store_true", help="compute in float64, where rounding hides nothing"
    )
    return parser


if __name__ == "__main__":
    sys.exit(launch_processes(main, make_parser().parse_args(), device="cpu"))
