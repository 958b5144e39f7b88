"""Less memory in training: what the backward pass needs is computed again there instead of being
kept.
"""

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint


def run(function: Callable[..., Tensor], *args: Any, recompute: bool) -> Tensor:
    """``function(*args)``, of which the backward pass keeps only the arguments with ``recompute``,
    where gradients are enabled.

    The rest is computed again there, once, with the adapter maps that ``function`` evaluates.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(partial(_as_a_whole, function), *args, use_reentrant=False)
    return function(*args)


_part_of_whole = ContextVar("_part_of_whole", default=False)


def _as_a_whole(function: Callable[..., Tensor], *args: Any) -> Tensor:
    """``function(*args)`` in which :func:`chain` does nothing: what it would keep, the whole does
    not.
    """
    token = _part_of_whole.set(True)
    try:
        return function(*args)
    finally:
        _part_of_whole.reset(token)


def chain(
    cheap: Callable[[Tensor], Tensor], x: Tensor, costly: Callable[[Tensor], Tensor]
) -> Tensor:
    """``costly(cheap(x))``, of which the backward pass keeps x, but not ``cheap(x)``.

    For norms and activations between matrix products: a large tensor less for the time of a small
    operation. What ``costly`` saves beside its input, it keeps.

    Args:
        cheap: one operation whose own gradient needs its input alone, as that of a norm or a GELU;
            it draws no random numbers.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or _part_of_whole.get():
        return costly(cheap(x))
    y = cheap(x)
    place, count = y.untyped_storage().data_ptr(), y.numel() if y.is_contiguous() else -1
    kind = x.device.type
    mixed, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    # the graph holds this function, so it must not hold y
    def pack(saved: Tensor) -> Tensor | torch.Size:
        same = (
            saved.untyped_storage().data_ptr() == place
            and saved.numel() == count
            and saved.is_contiguous()
        )
        return saved.shape if same else saved

    def unpack(kept: Tensor | torch.Size) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad(), torch.autocast(kind, dtype, enabled=mixed):
            return cheap(x).reshape(kept)

    with saved_tensors_hooks(pack, unpack):
        return costly(y)
