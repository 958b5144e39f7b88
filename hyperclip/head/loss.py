"""The training losses, of pixels with classes, and sampling of these classes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..labels import IGNORE


def pixel_class_bce(logits: Tensor, target: Tensor, ignore: int = IGNORE) -> Tensor:
    """Mean over pixels and classes of the binary cross-entropy; ignored pixels are negatives of
    every class. ValueError for a label that is neither below T nor ``ignore``.

    Equal to BCE-with-logits against one-hot targets (all zero where ignored), computed as ``(sum
    softplus(x) - sum over valid pixels of x[target]) / (B T H W)``. Source: CAT-Seg (CVPR 2024).

    Args:
        logits: (B, T, h, w); resized bilinearly to the target's size.
        target: class indices (B, H, W), integer, or ``ignore``.
    """
    size = target.shape[-2:]
    logits = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    check_labels(target, logits.shape[1], ignore)
    valid = target != ignore
    index = target.masked_fill(~valid, 0).long()
    positive = logits.gather(1, index[:, None])[:, 0]
    return (F.softplus(logits).sum() - positive[valid].sum()) / logits.numel()


def pixel_cross_entropy(logits: Tensor, target: Tensor, ignore: int = IGNORE) -> Tensor:
    """Mean over cells of the cross-entropy of softmax over the classes and none of them, which has
    the logit 0 and is what ignored pixels are; a cell has the label of the pixel at its centre.
    Arguments and errors as :func:`pixel_class_bce`, but logits are not resized.
    """
    check_labels(target, logits.shape[1], ignore)
    cells = F.interpolate(target[:, None].double(), logits.shape[-2:], mode="nearest-exact")
    cells = cells[:, 0].long()
    none = logits.new_zeros(len(logits), 1, *logits.shape[-2:])
    labels = torch.where(cells == ignore, 0, cells + 1)
    return F.cross_entropy(torch.cat([none, logits], dim=1).float(), labels)


def softmax_logits(logits: Tensor) -> Tensor:
    """Logits (B, T, h, w) trained by :func:`pixel_cross_entropy` to those whose sigmoid is their
    softmax probability: less the logarithm of the summed exponentials of all others and of none.
    """
    total = torch.logsumexp(F.pad(logits, (0, 0, 0, 0, 1, 0)), dim=1, keepdim=True)
    # log(p / (1 - p)) of log p, which is below 0
    log_p = (logits - total).clamp_max(-1e-7)
    return log_p - torch.log(-torch.expm1(log_p))


LOSSES = {"binary": pixel_class_bce, "softmax": pixel_cross_entropy}
"""By their name in MODEL.SEM_SEG_HEAD.LOSS."""


def check_labels(target: Tensor, classes: int, ignore: int) -> None:
    """ValueError if a label is neither 0 to ``classes - 1`` nor ``ignore``."""
    bad = target[(target != ignore) & ((target < 0) | (target >= classes))]
    if len(bad):
        got = f"labels: got {bad.unique()[:5].tolist()}"
        raise ValueError(f"{got}, expected 0 to {classes - 1} or the ignore value {ignore}")


def present_classes(target: Tensor, classes: int, ignore: int = IGNORE) -> Tensor:
    """Which classes labels of any shape hold, bool (T,); ValueError as :func:`check_labels`."""
    check_labels(target, classes, ignore)
    present = torch.zeros(classes, dtype=torch.bool, device=target.device)
    present[target[target != ignore].unique()] = True
    return present


def choose_classes(present: Tensor, count: int) -> Tensor:
    """Indices (t,), ascending, of the present classes (T,), with random others up to ``count``."""
    others = (~present).nonzero()[:, 0]
    missing = max(count - int(present.sum()), 0)
    fill = others[torch.randperm(len(others), device=present.device)[:missing]]
    return torch.cat([present.nonzero()[:, 0], fill]).sort().values


def in_terms_of(target: Tensor, chosen: Tensor, ignore: int = IGNORE) -> Tensor:
    """Labels as places in ``chosen`` (t,), ascending, which has all of them; ``ignore`` stays."""
    return torch.where(target == ignore, target, torch.searchsorted(chosen, target))
