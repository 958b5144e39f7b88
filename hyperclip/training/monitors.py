"""What a training reports: a table at its start, then gradients, loss, adapters, radii, speed."""

import logging
import statistics
import time
from collections.abc import Sequence
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .. import hyperbolic
from ..adapters import adapters
from ..clip.clip_text_tower import ClipTextTower
from ..clip.image_tower import image_tower
from ..clip.text_tower import text_tower
from ..clip.vit_tower import VitTower
from ..data.batches import TrainStream
from ..data.class_lists import TrainTask
from ..runtime.memory import peak_bytes
from ..segmenter import bare
from .step import training_precision

logger = logging.getLogger("hyperclip.training")


class FirstGradients(HookBase):
    """Logs once, after the first step, which trainable parameters got no gradient."""

    def after_step(self) -> None:
        if self.trainer.iter != self.trainer.start_iter:
            return
        without = parameters_without_gradient(self.trainer.model)
        trainable = sum(p.requires_grad for p in self.trainer.model.parameters())
        if not without:
            logger.info("All %d trainable parameters got a gradient", trainable)
            return
        logger.warning(
            "%d of %d trainable parameters got no gradient in the first step: %s. That is right "
            "for q and k of the image tower's last block, which only gives values, and for the "
            "inner factors of lora and relations, which start at zero",
            *(len(without), trainable, ", ".join(without)),
        )


def parameters_without_gradient(model: nn.Module) -> list[str]:
    """Names of trainable parameters whose gradient is missing or zero everywhere."""
    trained = [(name, p.grad) for name, p in model.named_parameters() if p.requires_grad]
    return [name for name, gradient in trained if gradient is None or not gradient.any()]


class LossWatch(HookBase):
    """Warns every ``period`` iterations, 0 for never, if the median loss of the last half period is
    not below that of the first one.
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
                *(done, recent, self.first),
            )


class AdapterDistance(HookBase):
    """Writes :func:`adapter_distances` every ``period`` iterations."""

    def __init__(self, period: int) -> None:
        self.period = period

    @torch.no_grad()
    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.period:
            return
        distances = adapter_distances(self.trainer.model)
        named = {f"adapter_distance/{encoder}": value for encoder, value in distances.items()}
        self.trainer.storage.put_scalars(smoothing_hint=False, **named)


def adapter_distances(model: nn.Module) -> dict[str, float]:
    """How far the adapters are from the identity: ||W' - W|| / ||W|| in Frobenius norms, its mean
    over the blocks, for each of "vision" and "text" that has adapters.
    """
    distances: dict[str, list[float]] = {}
    for name, _ in adapters(model):
        if not name.endswith(".0"):  # the first of a chain: the others are in its result
            continue
        owner, weight = name.split(".parametrizations.")
        module, weight = model.get_submodule(owner), weight.split(".")[0]
        original = getattr(module.parametrizations, weight).original
        change = (getattr(module, weight) - original).norm() / original.norm().clamp_min(1e-12)
        encoder = "vision" if ".visual." in f".{name}" else "text"
        distances.setdefault(encoder, []).append(change.item())
    return {encoder: statistics.fmean(values) for encoder, values in distances.items()}


class EmbeddingRadius(HookBase):
    """Writes radius/text and radius/vision: the mean hyperbolic radius of the raw embeddings.

    The radius of an embedding v is the distance of exp0(v) from the origin, (2 / sqrt(c))
    artanh(sqrt(c) |exp0(v)|) = 2 |v| for every curvature; see :func:`hyperclip.hyperbolic.radius`.
    The mean is over the prompts, or the patches, of the iteration and of this process. Source:
    HyperCLIP (CVPR 2025), whose plot of the text radius over 171 classes falls from about 7.2 to
    5.85; that scale looks like |v|, half of this.

    A hook on the last layer norm of each of CLIP's own towers looks at the embeddings, without
    gradients, in the iterations that are logged, every ``period``; towers of other families have
    no such value. A tower that is not run, since nothing in it trains, keeps its value. Put this
    before hooks that evaluate.
    """

    def __init__(self, period: int) -> None:
        self.period = period
        self.seen: dict[str, list[Tensor]] = {}
        self.latest: dict[str, float] = {}
        self.handles: list[RemovableHandle] = []

    def before_step(self) -> None:
        self.seen, iteration = {}, self.trainer.iter
        clip = getattr(bare(self.trainer.model), "clip", None)
        logged = iteration == self.trainer.start_iter or (iteration + 1) % self.period == 0
        if logged and clip is not None:
            towers: dict[str, object] = {
                "text": text_tower(clip),
                "vision": image_tower(clip.visual),
            }
            for encoder, tower in towers.items():
                if not isinstance(tower, VitTower | ClipTextTower):
                    continue
                norm = tower.last_norm
                if norm is not None:
                    look = partial(self._look, encoder, tower)
                    self.handles.append(norm.register_forward_hook(look))

    def after_step(self) -> None:
        self.after_train()
        for encoder, radii in self.seen.items():
            self.latest[encoder] = torch.cat(radii).mean().item()
        if (self.trainer.iter + 1) % self.period:
            return
        named = {f"radius/{encoder}": radius for encoder, radius in self.latest.items()}
        self.trainer.storage.put_scalars(smoothing_hint=False, **named)

    def after_train(self) -> None:
        while self.handles:
            self.handles.pop().remove()

    def _look(
        self,
        encoder: str,
        tower: VitTower | ClipTextTower,
        _module: nn.Module,
        _inputs: object,
        output: Tensor,
    ) -> None:
        # Without autocast: in older releases of torch it would keep a copy of the projection that
        # gets no gradient.
        with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
            radii = hyperbolic.radius(tower.embed_output(output))
            self.seen.setdefault(encoder, []).append(radii.flatten())


class StepsOfSets(HookBase):
    """Where steps ask different class lists: writes steps/NAME, how many asked each so far, every
    ``period`` iterations, NAME being the list's, and logs them at the end.
    """

    def __init__(self, stream: TrainStream, period: int) -> None:
        self.stream, self.period = stream, period

    def steps(self) -> dict[str, int]:
        """Steps so far by the class list that they asked; {} where there is one."""
        names = [asks["vocabulary"].name for asks in self.stream.samples.asks]
        if len(names) == 1:
            return {}
        return dict(zip(names, self.stream.batches, strict=True))

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.period:
            return
        named = {f"steps/{name}": count for name, count in self.steps().items()}
        self.trainer.storage.put_scalars(smoothing_hint=False, **named)

    def after_train(self) -> None:
        if steps := self.steps():
            counts = ", ".join(f"{count:,} of {name}" for name, count in steps.items())
            logger.info("Steps by class list: %s", counts)


class Throughput(HookBase):
    """Writes images_per_second, waiting for data included, and memory_mb, the peak since
    the last evaluation.

    Only steps count, so put this before hooks that evaluate or save. ``batch`` is the images of an
    iteration, of all processes; ``period`` the iterations between two values, which are averaged.
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
        memory = peak_bytes(next(self.trainer.model.parameters()).device) / 2**20
        named = {"images_per_second": speed, "memory_mb": memory}
        self.trainer.storage.put_scalars(smoothing_hint=False, **named)
        self.steps, self.seconds = 0, 0.0


def describe_training(
    cfg: CfgNode, records: int, tasks: Sequence[TrainTask], processes: int, shares: Sequence[float]
) -> str:
    """Text table of what a run with so many training images and processes is about to do;
    ``shares`` are the tasks' parts of the steps. ValueError for a precision that the device does
    not have.
    """
    solver, period = cfg.SOLVER, cfg.TEST.EVAL_PERIOD
    batch, parts = solver.IMS_PER_BATCH, solver.MICRO_BATCHES
    share = batch // processes
    evaluation = f"every {period:,} iterations and at the end" if period > 0 else "at the end"
    if not cfg.DATASETS.TEST:
        evaluation = "none, DATASETS.TEST is empty"
    steps = [
        f"about {share * solver.MAX_ITER:,.0f} of {task.vocabulary.name}"
        for task, share in zip(tasks, shares, strict=True)
    ]
    rows = [
        ("training sets", ", ".join(cfg.DATASETS.TRAIN)),
        ("images", f"{records:,}"),
        ("classes", ", ".join(f"{len(task.vocabulary):,}" for task in tasks)),
        ("batch", f"{batch:,} images, {share:,} in each of {processes} processes"),
        ("micro-batches", f"{parts} in each process, of {share // parts} images"),
        ("iterations", f"{solver.MAX_ITER:,}"),
        *([("steps", ", ".join(steps))] if len(steps) > 1 else []),
        ("epochs", f"{solver.MAX_ITER * batch / records:.2f}"),
        ("precision", training_precision(cfg)),
        ("evaluation", evaluation),
        ("checkpoints", f"every {solver.CHECKPOINT_PERIOD:,} iterations and at the end"),
    ]
    return tabulate(rows, tablefmt="simple", disable_numparse=True)
