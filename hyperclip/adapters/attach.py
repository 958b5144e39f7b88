"""Attaching adapters to CLIP by their names, finding, counting and merging them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..clip.attention_weights import AttentionWeight
from ..clip.concept_tower import ConceptEncoder
from ..clip.image_tower import image_tower
from ..clip.packaged import ConceptClip
from ..clip.text_tower import text_tower
from . import base
from .base import ADAPTER_REGISTRY, ENCODERS, MATRICES, PROJECTIONS, AdapterOptions, Site

ALIASES = {"hyperbolic": "hyperbolic_radius"}
RELEASED_PROJECTIONS = {"attention": ("q", "v"), "relations": MATRICES}
"""What these adapters are on unless the options say so; the others are on q, k and v."""
PARTS = ("context", "stages")
"""What else can train, in image towers that are made of a classifier: a reading of what surrounds a
cell, which is added, and a copy of the classifier's last stages, which it reads."""
WITH_OUTPUT = ("relations",)  # adapters that can be on the attention's output projection too


def adapter_names(mode: str) -> list[str]:
    """The adapters, by their names in the registry, of a value of CLIP_FINETUNE."""
    others = {*PARTS, "full", "none"}
    return [ALIASES.get(name, name) for name in mode.split("+") if name not in others]


def attentions(clip: nn.Module, encoder: str) -> list[AttentionWeight]:
    """Attention weights of one encoder ("vision" or "text") of an open_clip model."""
    if encoder == "vision":
        return image_tower(clip.visual).attentions  # type: ignore[arg-type]
    return text_tower(clip).attentions


def prepare_finetuning(clip: nn.Module, mode: str, options: AdapterOptions) -> None:
    """Freeze CLIP and make trainable what ``mode`` says, in place. Its outputs do not change.

    Args:
        mode: adapters and ``PARTS``, joined by "+" ("hyperbolic" is the radius adjustment,
            "hyperbolic+rotation" HyRo's), "full" (every weight that has an influence) or "none".
        options: with ``merged`` no adapter is attached: weights that hold them are loaded next.
    Raises:
        ValueError: an unknown mode, encoder or projection, options that do not fit the widths, an
            adapter that replaces what an earlier one adapts, adapters for towers without attention,
            or parts that the image tower does not have.
    """
    names = [ALIASES.get(name, name) for name in mode.split("+")]
    known = {name for name, _ in ADAPTER_REGISTRY} | set(PARTS)
    if mode not in ("full", "none") and not set(names) <= known:
        named = {name: alias for alias, name in ALIASES.items()}
        modes = sorted(named.get(name, name) for name in known) + ["full", "none"]
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.CLIP_FINETUNE: got {mode!r}, expected one of {modes}; adapters "
            "can be joined by '+'"
        )
    clip.requires_grad_(mode == "full")
    idle = image_tower(clip.visual).idle  # type: ignore[arg-type]
    for parameter in (clip.logit_scale, getattr(clip, "logit_bias", None), *idle):
        if parameter is not None:
            parameter.requires_grad_(False)  # type: ignore[operator]  # no score depends on it
    if mode in ("full", "none"):
        return
    if parts := [name for name in names if name in PARTS]:
        _open_parts(clip, mode, parts, options)
        names = [name for name in names if name not in PARTS]
        if not names:
            return
    towers = base.checked_choices("MODEL.ADAPTER.ENCODERS", options.encoders, ENCODERS)
    if not any(attentions(clip, encoder) for encoder in towers):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.CLIP_FINETUNE: got {mode!r}, but of MODEL.ADAPTER.ENCODERS "
            f"{list(towers)} none has attention. Set it to none or full, or add the other tower"
        )
    if options.merged:
        places = [own for name in names for own, _ in _places(clip, name, towers, options)]
        _keep_in_state(clip, [(own.module, own.name) for own in places])
        return
    attached = [_attach(clip, name, towers, options) for name in names]
    if len(names) > 1:
        _require_influence(clip, mode, list(zip(names, attached, strict=True)), towers)


def _open_parts(clip: nn.Module, mode: str, parts: Sequence[str], options: AdapterOptions) -> None:
    """Make parts of the image tower trainable, and add those that are not there yet."""
    visual = clip.visual
    if not isinstance(visual, ConceptEncoder):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.CLIP_FINETUNE: got {mode!r}, but {list(parts)} are parts of image "
            "towers that come as packages. Choose other adapters, or another CLIP_PRETRAINED"
        )
    if "context" not in parts:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.CLIP_FINETUNE: got {mode!r}, but stages have an influence with "
            "context alone. Set it to context+stages"
        )
    visual.add_context(options.context_dim, "stages" in parts)


def _projections(name: str, options: AdapterOptions) -> tuple[str, ...]:
    """The matrices that one kind of adapter is on."""
    chosen = tuple(options.projections) or RELEASED_PROJECTIONS.get(name, PROJECTIONS)
    allowed = MATRICES if name in WITH_OUTPUT else PROJECTIONS
    return base.checked_choices("MODEL.ADAPTER.PROJECTIONS", chosen, allowed)


def _places(
    clip: nn.Module, name: str, encoders: Sequence[str], options: AdapterOptions
) -> list[tuple[AttentionWeight, Site]]:
    """The attention weights of the towers that one kind of adapter is on."""
    chosen = set(_projections(name, options))
    return [
        (own, Site(encoder, own.layer, own.weight, own.matrices))
        for encoder in encoders
        for own in attentions(clip, encoder)
        if set(own.matrices) & chosen
    ]


def _attach(
    clip: nn.Module, name: str, encoders: Sequence[str], options: AdapterOptions
) -> list[base.Adapter]:
    """Register one kind of adapter on the attention weights of the towers."""
    places = _places(clip, name, encoders, options)
    sites = [site for _, site in places]
    chosen = _projections(name, options)
    built = ADAPTER_REGISTRY.get(name)(sites, replace(options, projections=chosen))
    for (own, site), adapter in zip(places, built, strict=True):
        on_device = adapter.to(site.weight.device)
        parametrize.register_parametrization(own.module, own.name, on_device)
    return built


def _require_influence(
    clip: nn.Module,
    mode: str,
    attached: Sequence[tuple[str, Sequence[base.Adapter]]],
    encoders: Sequence[str],
) -> None:
    """ValueError if a joined adapter trains rows of a weight that a later adapter replaces."""
    names = {id(adapter): name for name, built in attached for adapter in built}
    dead: dict[str, list[str]] = {}
    for encoder in encoders:
        for own in attentions(clip, encoder):
            # all layers of a tower are adapted alike
            if own.layer or not parametrize.is_parametrized(own.module, own.name):
                continue
            chain: Any = getattr(own.module.parametrizations, own.name)  # type: ignore[union-attr]
            rows = _dead_rows(chain.original, list(chain), own.matrices)
            for adapter, found in zip(chain, rows, strict=True):
                dead.setdefault(names[id(adapter)], []).extend(found)
        for name, _ in attached:
            if dead.get(name):
                raise ValueError(
                    f"MODEL.SEM_SEG_HEAD.CLIP_FINETUNE: got {mode!r}, where what {name!r} "
                    f"trains for {dead[name]} would have no influence, since a later adapter "
                    "replaces these weights. Put the one that replaces first, or leave it out"
                )


@torch.enable_grad()
def _dead_rows(
    weight: Tensor, chain: Sequence[nn.Module], matrices: Sequence[str]
) -> Iterator[list[str]]:
    """Which ``matrices`` of a weight each adapter of a chain moves without an influence on the
    chain's result.
    """
    values = [weight.detach().requires_grad_()]
    for adapter in chain:
        values.append(adapter(values[-1]))
    passed = _gradients(values[-1], values)
    for adapter, value, gradient in zip(chain, values[1:], passed[1:], strict=True):
        own = [p for p in adapter.parameters() if p.requires_grad]
        count = len(matrices)
        rows = zip(matrices, value.chunk(count), gradient.chunk(count), strict=True)
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
    """Write every adapted weight back as a plain one, in place; how many. The outputs stay, and the
    state dict has what was written.
    """
    merged: list[tuple[nn.Module, str]] = []
    for module in list(model.modules()):
        for name in list(getattr(module, "parametrizations", ())):
            chain: Any = getattr(module.parametrizations, name)
            if all(isinstance(own, base.Adapter) for own in chain):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
                merged.append((module, name))
    for part in model.modules():
        _keep_in_state(part, merged)
    return len(merged)


def _keep_in_state(clip: nn.Module, weights: Iterable[tuple[nn.Module, str]]) -> None:
    """Have the state dict of a model from packages hold weights, (owner, name), that are not, or
    will not be, as the packages bring them.
    """
    if isinstance(clip, ConceptClip):
        paths = {module: path for path, module in clip.named_modules()}
        clip.changed |= {f"{paths[module]}.{name}" for module, name in weights if module in paths}


def parameter_table(model: nn.Module) -> list[tuple[str, int, int]]:
    """Count parameters: rows (part, trainable, all) of CLIP's towers, adapters, head, and total. A
    tower that cannot have adapters says so beside the other's.
    """
    inside = {id(p): "adapters" for _, module in adapters(model) for p in module.parameters()}
    trainable, total = Counter[str](), Counter[str]()
    clip = dict(model.named_children()).get("clip")
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
    if inside and clip is not None:
        for encoder in ENCODERS:
            if not attentions(clip, encoder):
                total[f"CLIP {encoder} adapters (no attention)"] = 0
    table = [(part, trainable[part], total[part]) for part in sorted(total)]
    return [*table, ("total", trainable.total(), total.total())]
