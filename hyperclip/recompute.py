"""Activation checkpointing: less memory in training for a second forward pass, part by part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def run(function: Callable[..., Tensor], *args: Any, recompute: bool) -> Tensor:
    """``function(*args)``, of which the backward pass keeps only the arguments with ``recompute``, where gradients are enabled.

    The rest is computed again there, once, with the adapter maps that ``function`` evaluates.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *args, use_reentrant=False)
    return function(*args)
