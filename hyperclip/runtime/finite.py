"""Refuse results that hold NaN or infinity, and name the likely cause: a label map made of NaN,
which is never the larger of two numbers, looks like any other.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)


class NotFiniteError(FloatingPointError, ValueError):
    """NaN or infinity where a number belongs; a ValueError, too, as any other fault of an input."""


class FiniteCheck:
    """Looks at tensors as they come, once and keeping none, and says at the end whether all of them
    were finite; until then nothing waits for a GPU.
    """

    def __init__(self) -> None:
        self._extremes: dict[str, list[Tensor]] = {}
        self._half = False

    def add(self, what: str, *tensors: Tensor) -> FiniteCheck:
        """Look at tensors of any shape, which messages call ``what``; integers are finite."""
        for tensor in tensors:
            if tensor.numel() and tensor.is_floating_point():
                low, high = tensor.detach().aminmax()  # NaN if any entry is
                self._extremes.setdefault(what, []).append(torch.stack([low, high]).float())
                self._half |= tensor.dtype in HALF or torch.is_autocast_enabled(tensor.device.type)
        return self

    def require(self, model: nn.Module | None = None, half: bool = False) -> None:
        """NotFiniteError, naming what was added that is not finite, and the likely cause, for which
        the weights of ``model`` are searched; ``half``: it used half precision in places.
        """
        for what, extremes in self._extremes.items():
            if not torch.stack([x.to(extremes[0].device) for x in extremes]).isfinite().all():
                name = "the model" if model is None else type(model).__name__
                cause = _likely_cause(model, half or self._half)
                raise NotFiniteError(f"{name}: NaN or infinity in {what}. Likely cause: {cause}")


def require_finite_weights(model: nn.Module) -> None:
    """NotFiniteError for a model whose weights are broken, which may not show in its scores."""
    if broken := list(broken_weights(model)):
        raise NotFiniteError(f"{type(model).__name__}: {_broken_weights(broken)}")


def broken_weights(model: nn.Module) -> Iterator[str]:
    """Parameters that hold NaN or infinity, and buffers that hold NaN (a mask may hold -inf)."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.numel() and tensor.is_floating_point():
            extremes = torch.stack(tensor.detach().aminmax())  # NaN if any entry is
            weight = isinstance(tensor, nn.Parameter)
            if (~extremes.isfinite() if weight else extremes.isnan()).any():
                yield name


def _likely_cause(model: nn.Module | None, half: bool) -> str:
    if model is not None:
        if broken := list(broken_weights(model)):
            return _broken_weights(broken)
        half = half or any(p.dtype in HALF for p in model.parameters())
    if half:
        return (
            "half precision, whose largest number is 65504 in float16. Compute in float32: "
            "TEST.PRECISION float32, the system's HALF key False, or no autocast"
        )
    return (
        "weights that are broken or belong to another model (none of them is NaN itself), an image "
        "that holds NaN, or a setting that divides by zero"
    )


def _broken_weights(names: list[str]) -> str:
    more, verb = (f" and {len(names) - 1} more", "hold") if len(names) > 1 else ("", "holds")
    return (
        f"broken weights: {names[0]}{more} {verb} NaN or infinity. Get the file anew, or take a "
        "checkpoint from before training diverged (MODEL.WEIGHTS, MODEL.CLIP_WEIGHTS, a refiner's "
        "model)"
    )
