"""The optimiser: AdamW or SGD in parameter groups, one gradient norm over the model."""

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from ..adapters import adapters
from ..clip.concept_tower import ContextReading

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d)


def parameter_groups(model: nn.Module, cfg: CfgNode) -> list[dict[str, Any]]:
    """One group for each trainable parameter, as in the released code; ValueError if nothing trains
    or a learning rate is 0 or less.

    CLIP's learning rate is BASE_LR times CLIP_MULTIPLIER, but for what was added to it without any
    pre-training; norms and embeddings have weight decays of their own. (Detectron2's
    ``get_default_optimizer_params`` merges the groups.)
    """
    solver, groups = cfg.SOLVER, []
    readings = [m for m in model.modules() if isinstance(m, ContextReading)]
    added = {parameter for reading in readings for parameter in reading.parameters()}
    for name, parameter in model.named_parameters():  # a shared one comes once
        if not parameter.requires_grad:
            continue
        rate, decay = solver.BASE_LR, solver.WEIGHT_DECAY
        module = model.get_submodule(name.rpartition(".")[0])
        if name.startswith("clip.") and parameter not in added:
            rate *= solver.CLIP_MULTIPLIER
        if isinstance(module, NORMS):
            decay = solver.WEIGHT_DECAY_NORM
        if isinstance(module, nn.Embedding):
            decay = solver.WEIGHT_DECAY_EMBED
        groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
    if not groups:
        system = f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} with these keys"
        advice = "Evaluate it with --eval-only, or choose another head or CLIP_FINETUNE"
        raise ValueError(f"{system} has nothing to train. {advice}")
    still = sum(p.numel() for group in groups if group["lr"] <= 0 for p in group["params"])
    if still:
        raise ValueError(
            f"SOLVER.BASE_LR {solver.BASE_LR} and CLIP_MULTIPLIER {solver.CLIP_MULTIPLIER} give "
            f"{still:,} trainable parameters a learning rate of 0 or less, expected more. To leave "
            "CLIP as it is, set CLIP_FINETUNE to none"
        )
    return groups


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD over :func:`parameter_groups`, which raises, too; before each step the full
    gradient is clipped.
    """
    solver = cfg.SOLVER
    clip, groups = solver.CLIP_GRADIENTS, parameter_groups(model, cfg)
    optimizer: torch.optim.Optimizer
    if solver.OPTIMIZER == "ADAMW":
        optimizer = torch.optim.AdamW(groups, solver.BASE_LR)
    else:
        optimizer = torch.optim.SGD(
            groups, solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV
        )
    if clip.ENABLED:

        def clip_gradients(opt: torch.optim.Optimizer, *_: Any) -> None:
            parameters = [p for group in opt.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)

        optimizer.register_step_pre_hook(clip_gradients)
    if solver.DECAY_TO_IDENTITY:
        decay_to_identity(optimizer, model)
    return optimizer


def decay_to_identity(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Make weight decay pull adapters that start at the identity matrix there instead of to zero:
    the gradient of ``weight_decay / 2 ||M - I||^2``, outside of AdamW's moments, inside SGD's.
    """
    started = {p for _, adapter in adapters(model) for p in adapter.starts_at_identity()}
    inside = isinstance(optimizer, torch.optim.SGD)

    @torch.no_grad()
    def pull(opt: torch.optim.Optimizer, *_: Any) -> None:
        for group in opt.param_groups:
            for p in started.intersection(group["params"]):
                if p.grad is None:
                    continue
                if inside:
                    p.grad.diagonal(dim1=-2, dim2=-1).sub_(group["weight_decay"])
                else:
                    p.diagonal(dim1=-2, dim2=-1).add_(group["lr"] * group["weight_decay"])

    register = optimizer.register_step_pre_hook if inside else optimizer.register_step_post_hook
    register(pull)
