"""Pixel statistics of CLIP's training images, on the 0..255 scale, RGB order, and whose count."""

import logging
from collections.abc import Sequence

from torch import nn

CLIP_MEAN: tuple[float, float, float] = (122.7709383, 116.7460125, 104.09373615)
CLIP_STD: tuple[float, float, float] = (68.5005327, 66.6321579, 70.3231630)

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and standard deviations of R, G and B."""

logger = logging.getLogger("hyperclip.clip")


def statistics_of(visual: nn.Module) -> Statistics:
    """What open_clip says of an image encoder's input, on the 0..255 scale; CLIP's if nothing."""
    mean, std = getattr(visual, "image_mean", None), getattr(visual, "image_std", None)
    if mean is None or std is None:
        return CLIP_MEAN, CLIP_STD
    return tuple(255 * float(value) for value in mean), tuple(255 * float(v) for v in std)


def pixel_statistics(
    own: Statistics, mean: Sequence[float], std: Sequence[float]
) -> dict[str, tuple[float, ...]]:
    """``pixel_mean`` and ``pixel_std`` that a system normalises with, from the statistics of its
    image tower (``own``) and the keys MODEL.CLIP_PIXEL_MEAN and CLIP_PIXEL_STD.

    Where both differ the tower's count, unless somebody has set the keys to other values than
    the defaults, which are CLIP's: those count then, with a warning.
    """
    given: Statistics = (tuple(mean), tuple(std))
    used = given
    if not _close(given, own):
        if _close(given, (CLIP_MEAN, CLIP_STD)):
            used = own
            logger.info("Images are normalised as the image tower was trained: %s", shown(own))
        else:
            logger.warning(
                "MODEL.CLIP_PIXEL_MEAN, CLIP_PIXEL_STD: got %s, but the image tower was trained "
                "with %s",
                *(shown(given), shown(own)),
            )
    return {"pixel_mean": used[0], "pixel_std": used[1]}


def shown(statistics: Statistics) -> str:
    """Means and deviations in a message."""
    mean, std = ([round(value, 2) for value in values] for values in statistics)
    return f"mean {mean}, std {std}"


def _close(one: Statistics, other: Statistics) -> bool:
    pairs = zip([*one[0], *one[1]], [*other[0], *other[1]], strict=True)
    return all(abs(a - b) < 1e-3 for a, b in pairs)
