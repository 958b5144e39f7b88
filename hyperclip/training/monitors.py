"""What a training reports: a table at its start, then gradients, loss, adapters, radii, speed."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from open_clip import CLIP
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .. import hyperbolic
from ..adapters import adapters
from ..runtime.compat import peak_resident_bytes
from ..segmenter import bare
from .step import training_precision

logger = logging.getLogger("hyperclip.training")


class FirstGradients(HookBase):
    """Logs once, after the first step, which trainable parameters got no gradient."""

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
            "%d of %d trainable parameters got no gradient in the first step: %s. That is right "
            "for q and k of the image tower's last block, which only gives values, and for the "
            "inner factors of lora and relations, which start at zero",
            len(without),
            trainable,
            ", ".join(without),
        )


def parameters_without_gradient(model: nn.Module) -> list[str]:
    """Names of trainable parameters whose gradient is missing or zero everywhere."""
    trained = [(name, p.grad) for name, p in model.named_parameters() if p.requires_grad]
    return [name for name, gradient in trained if gradient is None or not gradient.any()]


class LossWatch(HookBase):
    """Warns every ``period`` iterations if the median loss of the last half period has not fallen.

    It is compared with that of the first half period. A period of 0 means never.
    """

    def __init__(self, period: int) -> None:
        self.period, self.half = period, max(1, period // 2)
        self.first: float | None = None

    def after_step(self) -> None:
        done = self.trainer.iter + 1 - self.trainer.start_iter
        if not self.period or (done != self.half and done % self.period):
            return
        history = self.trainer.storage.histories().get("total_loss")
        if history is None:
            return
        recent = statistics.median(value for value, _ in history.values()[-self.half :])
        if self.first is None:
            self.first = recent
        elif recent >= self.first:
            logger.warning(
                "The loss has not fallen after %d iterations: median %.4g, %.4g at the start. "
                "Check the class list against the labels (tools/check_datasets.py --histogram), "
                "SOLVER.BASE_LR and SOLVER.CLIP_MULTIPLIER",
                done,
                recent,
                self.first,
            )


class AdapterDistance(HookBase):
    """Writes :func:`adapter_distances` every ``period`` iterations."""

    def __init__(self, period: int) -> None:
        self.period = period

    @torch.no_grad()
    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.period:
            return
        for encoder, distance in adapter_distances(self.trainer.model).items():
            self.trainer.storage.put_scalar(
                f"adapter_distance/{encoder}", distance, smoothing_hint=False
            )


def adapter_distances(model: nn.Module) -> dict[str, float]:
    """How far the adapters are from the identity: ||W' - W|| / ||W||, its mean over the blocks.

    Returns:
        a number for each of "vision" and "text" that has adapters; the norms are Frobenius norms.
    """
    distances: dict[str, list[float]] = {}
    for name, _ in adapters(model):
        if not name.endswith(".0"):  # the first of a chain: the others are in its result
            continue
        owner, weight = name.split(".parametrizations.")
        module, weight = model.get_submodule(owner), weight.split(".")[0]
        original = getattr(module.parametrizations, weight).original
        change = (getattr(module, weight) - original).norm() / original.norm().clamp_min(1e-12)
        distances.setdefault("vision" if ".visual." in f".{name}" else "text", []).append(
            change.item()
        )
    return {encoder: statistics.fmean(values) for encoder, values in distances.items()}


class EmbeddingRadius(HookBase):
    """Writes radius/text and radius/vision: the mean hyperbolic radius of the raw embeddings.

    The radius of an embedding v is the distance of exp0(v) from the origin, (2 / sqrt(c))
    artanh(sqrt(c) |exp0(v)|) = 2 |v| for every curvature; see :func:`hyperclip.hyperbolic.radius`.
    The mean is over the prompts, or the patches, of the iteration and of this process. Source:
    HyperCLIP (CVPR 2025), whose plot of the text radius over 171 classes falls from about 7.2 to
    5.85; that scale looks like |v|, half of this.

    A hook on each tower's last layer norm looks at the embeddings, without gradients, in the
    iterations that are logged. A tower that is not run, since nothing in it trains, keeps its
    value. Put this before hooks that evaluate.

    Args:
        period: iterations between two values.
    """

    def __init__(self, period: int) -> None:
        self.period, self.active = period, False
        self.seen: dict[str, list[Tensor]] = {}
        self.latest: dict[str, float] = {}
        self.handles: list[RemovableHandle] = []

    def before_train(self) -> None:
        clip = getattr(bare(self.trainer.model), "clip", None)
        if clip is not None:
            text, vision = partial(self._look, "text", clip), partial(self._look, "vision", clip)
            self.handles = [
                clip.ln_final.register_forward_hook(text),
                clip.visual.ln_post.register_forward_hook(vision),
            ]

    def before_step(self) -> None:
        iteration = self.trainer.iter
        self.active = iteration == self.trainer.start_iter or (iteration + 1) % self.period == 0
        self.seen = {}

    def after_step(self) -> None:
        self.active = False
        for encoder, radii in self.seen.items():
            self.latest[encoder] = torch.cat(radii).mean().item()
        if (self.trainer.iter + 1) % self.period:
            return
        for encoder, radius in self.latest.items():
            self.trainer.storage.put_scalar(f"radius/{encoder}", radius, smoothing_hint=False)

    def after_train(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _look(
        self, encoder: str, clip: CLIP, _module: nn.Module, _inputs: object, output: Tensor
    ) -> None:
        if not self.active:
            return
        # Without autocast: in older releases of torch it would keep a copy of the projection that
        # gets no gradient.
        with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
            x = output.float()
            if encoder == "text":
                embeddings = _projected(x, clip.text_projection)
            else:  # without the class token, which is no dense embedding
                embeddings = _projected(x[:, 1:], clip.visual.proj)
            self.seen.setdefault(encoder, []).append(hyperbolic.radius(embeddings).flatten())


def _projected(x: Tensor, projection: Tensor | Callable[[Tensor], Tensor] | None) -> Tensor:
    if projection is None:
        return x
    return x @ projection.float() if isinstance(projection, Tensor) else projection(x)


class Throughput(HookBase):
    """Writes images_per_second, waiting for data included, and memory_mb, the peak so far.

    Only the time from before to after a step counts, so put this before hooks that evaluate or
    save.

    Args:
        batch: images of an iteration, of all processes.
        period: iterations between two values, and averaged.
    """

    def __init__(self, batch: int, period: int) -> None:
        self.batch, self.period = batch, period
        self.steps, self.seconds, self.start = 0, 0.0, 0.0

    def before_step(self) -> None:
        self.start = time.perf_counter()

    def after_step(self) -> None:
        self.seconds += time.perf_counter() - self.start
        self.steps += 1
        if (self.trainer.iter + 1) % self.period:
            return
        speed = self.batch * self.steps / self.seconds
        memory = peak_memory(next(self.trainer.model.parameters()).device)
        self.trainer.storage.put_scalars(
            images_per_second=speed, memory_mb=memory, smoothing_hint=False
        )
        self.steps, self.seconds = 0, 0.0


def peak_memory(device: torch.device) -> float:
    """Peak memory so far, in MiB: torch's on a CUDA device, else the RAM of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_resident_bytes() / 2**20


def describe_training(cfg: CfgNode, records: int, classes: int, processes: int) -> str:
    """Text table of what a run is about to do.

    Args:
        records: images of the training sets. classes: of their labels.
        processes: that share a batch.
    Raises:
        ValueError: a precision that the device does not have.
    """
    solver, period = cfg.SOLVER, cfg.TEST.EVAL_PERIOD
    batch, parts = solver.IMS_PER_BATCH, solver.MICRO_BATCHES
    share = batch // processes
    evaluation = f"every {period:,} iterations and at the end" if period > 0 else "at the end"
    if not cfg.DATASETS.TEST:
        evaluation = "none, DATASETS.TEST is empty"
    rows = [
        ("training sets", ", ".join(cfg.DATASETS.TRAIN)),
        ("images", f"{records:,}"),
        ("classes", f"{classes:,}"),
        ("batch", f"{batch:,} images, {share:,} in each of {processes} processes"),
        ("micro-batches", f"{parts} in each process, of {share // parts} images"),
        ("iterations", f"{solver.MAX_ITER:,}"),
        ("epochs", f"{solver.MAX_ITER * batch / records:.2f}"),
        ("precision", training_precision(cfg)),
        ("evaluation", evaluation),
        ("checkpoints", f"every {solver.CHECKPOINT_PERIOD:,} iterations and at the end"),
    ]
    return tabulate(rows, tablefmt="simple", disable_numparse=True)
