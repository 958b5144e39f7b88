"""Attaching adapters to CLIP by their names, finding, counting and merging them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from open_clip import CLIP
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import base
from .base import ADAPTER_REGISTRY, ENCODERS, MATRICES, PROJECTIONS, AdapterOptions, Site

ALIASES = {"hyperbolic": "hyperbolic_radius"}
RELEASED_PROJECTIONS = {"attention": ("q", "v"), "relations": MATRICES}
"""What these adapters are on unless the options say so; the others are on q, k and v."""
WITH_OUTPUT = ("relations",)  # adapters that can be on the attention's output projection too


def tower(clip: CLIP, encoder: str) -> Sequence[ResidualAttentionBlock]:
    """Residual attention blocks of one encoder ("vision" or "text") of an open_clip model."""
    return clip.visual.transformer.resblocks if encoder == "vision" else clip.transformer.resblocks


def prepare_finetuning(clip: CLIP, mode: str, options: AdapterOptions) -> None:
    """Freeze CLIP and make trainable what ``mode`` says, in place. Its outputs do not change.

    Args:
        mode: adapters, joined by "+" ("hyperbolic" is the radius adjustment, "hyperbolic+rotation"
            HyRo's), "full" (every weight that has an influence) or "none".
    Raises:
        ValueError: an unknown mode, encoder or projection, options that do not fit the widths, or
            an adapter that replaces what an earlier one adapts.
    """
    names = [ALIASES.get(name, name) for name in mode.split("+")]
    if mode not in ("full", "none") and any(name not in ADAPTER_REGISTRY for name in names):
        named = {name: alias for alias, name in ALIASES.items()}
        modes = sorted(named.get(name, name) for name, _ in ADAPTER_REGISTRY) + ["full", "none"]
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.CLIP_FINETUNE: got {mode!r}, expected one of {modes}; adapters "
            "can be joined by '+'"
        )
    clip.requires_grad_(mode == "full")
    clip.logit_scale.requires_grad_(False)  # no score depends on it
    if mode in ("full", "none"):
        return
    towers = base.checked_choices("MODEL.ADAPTER.ENCODERS", options.encoders, ENCODERS)
    for name in names:
        _attach(clip, name, towers, options)
    if len(names) > 1:
        _require_influence(clip, mode, names, towers)


def _attach(clip: CLIP, name: str, encoders: Sequence[str], options: AdapterOptions) -> None:
    """Register one kind of adapter on the attention weights of the towers."""
    chosen = tuple(options.projections) or RELEASED_PROJECTIONS.get(name, PROJECTIONS)
    allowed = MATRICES if name in WITH_OUTPUT else PROJECTIONS
    chosen = base.checked_choices("MODEL.ADAPTER.PROJECTIONS", chosen, allowed)
    places: list[tuple[nn.Module, Site]] = []
    for encoder in encoders:
        for layer, block in enumerate(tower(clip, encoder)):
            attn, out = block.attn, block.attn.out_proj
            if chosen != ("out",):
                places.append((attn, Site(encoder, layer, "in_proj_weight", attn.in_proj_weight)))
            if "out" in chosen:
                places.append((out, Site(encoder, layer, "out_proj", out.weight)))
    sites = [site for _, site in places]
    built = ADAPTER_REGISTRY.get(name)(sites, replace(options, projections=chosen))
    for (module, site), adapter in zip(places, built, strict=True):
        weight = "weight" if site.name == "out_proj" else site.name
        parametrize.register_parametrization(module, weight, adapter.to(site.weight.device))


def _require_influence(
    clip: CLIP, mode: str, names: Sequence[str], encoders: Sequence[str]
) -> None:
    """ValueError if a joined adapter trains rows of a weight that a later adapter replaces."""
    for encoder in encoders:
        attn = tower(clip, encoder)[0].attn  # all blocks of a tower are adapted alike
        if not parametrize.is_parametrized(attn, "in_proj_weight"):
            continue
        chain: Any = attn.parametrizations.in_proj_weight
        for k, dead in enumerate(_dead_rows(chain.original, list(chain))):
            if dead:
                raise ValueError(
                    f"MODEL.SEM_SEG_HEAD.CLIP_FINETUNE: got {mode!r}, where what {names[k]!r} "
                    f"trains for {dead} would have no influence, since a later adapter replaces "
                    "these weights. Put the one that replaces first, or leave it out"
                )


@torch.enable_grad()
def _dead_rows(weight: Tensor, chain: Sequence[nn.Module]) -> Iterator[list[str]]:
    """Which of q, k, v each adapter of a chain moves without an influence on the chain's result."""
    values = [weight.detach().requires_grad_()]
    for adapter in chain:
        values.append(adapter(values[-1]))
    passed = _gradients(values[-1], values)
    for adapter, value, gradient in zip(chain, values[1:], passed[1:], strict=True):
        own = [p for p in adapter.parameters() if p.requires_grad]
        rows = zip(PROJECTIONS, value.chunk(3), gradient.chunk(3), strict=True)
        yield [
            name
            for name, part, influence in rows
            if not influence.any() and any(g.any() for g in _gradients(part, own))
        ]


def _gradients(value: Tensor, sources: Sequence[Tensor]) -> Sequence[Tensor]:
    """Gradients of the sum of a tensor with respect to others, 0 where it does not depend on it."""
    return torch.autograd.grad(
        value.sum(), sources, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def adapters(model: nn.Module) -> Iterator[tuple[str, base.Adapter]]:
    """(name, module) of every adapter inside ``model``."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, base.Adapter))


def merge(model: nn.Module) -> int:
    """Write every adapted weight back as a plain one, in place; how many. The outputs stay."""
    merged = 0
    for module in list(model.modules()):
        for name in list(getattr(module, "parametrizations", ())):
            chain: Any = getattr(module.parametrizations, name)
            if all(isinstance(own, base.Adapter) for own in chain):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
                merged += 1
    return merged


def parameter_table(model: nn.Module) -> list[tuple[str, int, int]]:
    """Count parameters: rows (part, trainable, all) of CLIP's towers, adapters, head, and total."""
    inside = {id(p): "adapters" for _, module in adapters(model) for p in module.parameters()}
    trainable, total = Counter[str](), Counter[str]()
    for name, parameter in model.named_parameters():
        encoder = "vision" if ".visual." in f".{name}" else "text"
        if id(parameter) in inside:
            part = f"CLIP {encoder} adapters"
        elif name.startswith("clip."):
            part = f"CLIP {encoder}"
        else:
            part = name.split(".")[0]
        trainable[part] += parameter.numel() * parameter.requires_grad
        total[part] += parameter.numel()
    table = [(part, trainable[part], total[part]) for part in sorted(total)]
    return [*table, ("total", trainable.total(), total.total())]
