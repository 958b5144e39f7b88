"""One training step: precision, micro-batches, and no step along a gradient that is not finite."""

import contextlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm, events
from torch import Tensor, nn

from ..head.loss import choose_classes, present_classes
from ..runtime.files import write_text
from ..runtime.precision import fast_precision
from ..segmenter import bare

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def training_precision(cfg: CfgNode) -> str:
    """The precision that a config asks for: float16 with AMP.ENABLED, else SOLVER.PRECISION, of
    which "auto" is bfloat16 on GPUs that compute in it, else float32. ValueError for an unknown
    precision, or float16 without CUDA.
    """
    wanted = "float16" if cfg.SOLVER.AMP.ENABLED else cfg.SOLVER.PRECISION
    if wanted not in PRECISIONS:
        raise ValueError(f"SOLVER.PRECISION: got {wanted!r}, expected one of {list(PRECISIONS)}")
    on_cuda = torch.device(cfg.MODEL.DEVICE).type == "cuda"
    if wanted == "float16" and not on_cuda:
        advice = "Use bfloat16 or float32, or set MODEL.DEVICE to cuda"
        raise ValueError(f"SOLVER.PRECISION: float16 needs CUDA. {advice}")
    if wanted != "auto":
        return wanted
    return "bfloat16" if on_cuda and fast_precision("cuda") == "bfloat16" else "float32"


def decide_for_all(batch: list[dict], model: nn.Module) -> list[dict]:
    """Copies of this process's records with what all parts of the batch share; all processes call
    it. ValueError for a label that is neither a class nor ignored.

    A loss is a mean over pixels and classes: the gradients of the parts add up to the whole's only
    if all parts are padded to the same size and ask for the same classes.

    Args:
        batch: records with "image" (3, H, W) and "sem_seg" (H, W).
        model: trained; its ``sampled_classes`` is how many classes a step takes, 0 for all.
    Returns:
        the records with "padded_size", the largest (height, width) of all images, and, where
            classes are sampled, "sampled_classes", their indices (t,), ascending.
    """
    system = bare(model)
    height, width = (max(x["image"].shape[i] for x in batch) for i in (1, 2))
    count, ignore, classes = system.sampled_classes, 0, 0
    if count:
        question = system.training_question(batch)
        ignore, classes = question.ignore, len(question.vocabulary)
    classes = classes if count < classes else 0
    present = torch.zeros(classes, dtype=torch.bool)
    for record in batch if classes else ():
        present |= present_classes(record["sem_seg"], classes, ignore).to(present.device)
    shared = comm.all_gather(torch.tensor([height, width, *present.tolist()]))
    joined = torch.stack(shared).amax(0)
    common: dict[str, Any] = {"padded_size": (int(joined[0]), int(joined[1]))}
    if classes:
        device = next(model.parameters()).device
        chosen = choose_classes(joined[2:].to(device, torch.bool), count)
        common["sampled_classes"] = comm.all_gather(chosen.cpu())[0].to(device)
    return [record | common for record in batch]


class TrainLoop(SimpleTrainer):
    """Detectron2's simple trainer with mixed precision, micro-batches and a check of the gradient.

    Weights and optimiser state stay in float32; float16 scales the loss.

    Args:
        optimizer: its own hooks may clip the gradients, which are unscaled by then.
        micro_batches: number of parts of a batch, whose gradients add up to those of the whole.
        precision: "float32", "bfloat16" or "float16".
        faults: folder that gets the file names of a batch whose gradient is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        *,
        micro_batches: int,
        precision: str,
        faults: Path,
    ) -> None:
        super().__init__(model, loader, optimizer)
        self.micro_batches, self.precision, self.faults = micro_batches, precision, faults
        self.device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "float16")

    def run_step(self) -> None:
        """One optimiser step; FloatingPointError if the gradient is not finite: then the weights
        are unchanged, and a file lists the batch.
        """
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        losses = self._backward(batch)
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.model)
        # With float16 the scaler skips such a step and scales less
        if not torch.isfinite(norm) and not self.scaler.is_enabled():
            self._report(batch, losses)
        self._write_metrics(losses, data_time)
        events.get_event_storage().put_scalar("gradient_norm", norm.item(), smoothing_hint=False)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _backward(self, batch: list[dict]) -> dict[str, Tensor]:
        """Losses of the whole batch, detached; adds their gradients to those of the parameters."""
        total: dict[str, Tensor] = {}
        batch = decide_for_all(batch, self.model)
        size = -(-len(batch) // self.micro_batches)
        parts = [batch[i : i + size] for i in range(0, len(batch), size)]
        dtype, mixed = getattr(torch, self.precision), self.precision != "float32"
        for i, part in enumerate(parts):
            share = len(part) / len(batch)
            waits = i < len(parts) - 1 and hasattr(self.model, "no_sync")
            with self.model.no_sync() if waits else contextlib.nullcontext():
                with torch.autocast(self.device.type, dtype, enabled=mixed):
                    losses = self.model(part)
                self.scaler.scale(share * sum(losses.values())).backward()
            for name, loss in losses.items():
                total[name] = total.get(name, 0) + share * loss.detach()
        return total

    def _report(self, batch: list[dict], losses: dict[str, Tensor]) -> None:
        gradients = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}
        names = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        path = self.faults / f"nonfinite_iteration_{self.iter}_process_{comm.get_rank()}.json"
        keys = ("file_name", "sem_seg_file_name")
        content = {
            "iteration": self.iter,
            "losses": {name: str(loss.item()) for name, loss in losses.items()},
            "parameters": names,
            "files": [{key: x[key] for key in keys if key in x} for x in batch],
        }
        write_text(path, json.dumps(content, indent=1) + "\n")
        raise FloatingPointError(
            f"iteration {self.iter}: the gradients of {len(names)} parameters are not finite "
            f"({', '.join(names[:3])} …), the loss is {content['losses']}. No step was made; the "
            f"batch's files are listed in {path}. Look at these images and labels, lower "
            "SOLVER.BASE_LR, or set SOLVER.PRECISION to float32"
        )

    def close_loader(self) -> None:
        """End the loader's workers."""
        self._data_loader_iter_obj = None

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if state_dict.get("scaler"):
            self.scaler.load_state_dict(state_dict["scaler"])


def gradient_norm(model: nn.Module) -> Tensor:
    """2-norm of the gradients of all parameters together, a scalar; 0 without any."""
    return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
