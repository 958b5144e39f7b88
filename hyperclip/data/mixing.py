"""Several datasets in one training: which images come when, and what is asked about them.

Each epoch is a permutation of all images, or, with weights, of as many of each dataset as its
weight says. Order and augmentation depend on seed and position alone.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TrainPart:
    """The images of one dataset.

    Attributes:
        records: Detectron2's. mapper: makes a sample of one.
        asks: what its samples get besides, such as "vocabulary"; parts of one batch share it.
    """

    records: list[dict]
    mapper: Callable[[dict], dict]
    asks: Mapping[str, Any] = field(default_factory=dict)


def images_of_epoch(sizes: Sequence[int], weights: Sequence[float] = ()) -> tuple[int, ...]:
    """How many images of each dataset an epoch has: all of them, or with weights, shares of their
    sum in proportion to these, of each at least one image.
    """
    if not weights:
        return tuple(sizes)
    images, total = sum(sizes), sum(weights)
    return tuple(max(1, round(images * weight / total)) for weight in weights)


@functools.lru_cache(maxsize=2)
def order_of_epoch(
    seed: int, epoch: int, sizes: tuple[int, ...], shares: tuple[int, ...]
) -> np.ndarray:
    """The images of an epoch in their order, numbered through all datasets, int64.

    A dataset of which an epoch takes another share than all of it (``shares``, ``sizes``) goes
    through permutations of its own, so that each of its images comes equally often.
    """
    order = np.random.default_rng([seed, epoch]).permutation(sum(shares))
    if shares == sizes:
        return order
    images, first = [], 0
    for k, (size, share) in enumerate(zip(sizes, shares, strict=True)):
        rounds, places = np.divmod(np.arange(epoch * share, (epoch + 1) * share), size)
        for own in np.unique(rounds):
            # 1 more than k, since a last word of 0 makes no other generator
            own_order = np.random.default_rng([seed, int(own), k + 1]).permutation(size)
            images.append(first + own_order[places[rounds == own]])
        first += size
    return np.concatenate(images)[order]
