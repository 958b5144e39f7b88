"""Images of label maps: an overlay with a legend, and the colours of the classes."""

from collections import Counter, defaultdict

import cv2
import numpy as np
from PIL import Image

from .labels import NO_CLASS

_HEX = """
0d00ff 0dff0d ff360d ff00a1 f2d700 0079ff 0d6b00 0dffd7 860028 0d0051 865e00 0dbcff bc0dd7 c9ff94 ff94a1 ff9400
ae6bae 00ff86 ff0d5e 005ea1 79c900 009486 e4c979 ff86ff 86940d c95128 7943bc 1b4336 940d79 512800 bcaed7 432843
0043e4 28c979 000086 bcffe4 ae946b 005e79 a100ff 1b4300 794343 ff1bd7 c99400 ffbcff ffae5e 94ff0d 1ba1bc bcc9ae
5e3686 0d945e 430043 a1e4f2 c994ff ffbc94 79946b ae5143 433628 510028 86436b 9400a1 94ffbc 0dc900 86c979 f25e79
00ffff a17994 bc6b00 ff6b00 a151ff 863600 7986c9 bc51bc bc0051 0d00bc c98679 865e36 0d0028 5e8636 ff0036 c900a1
aeff6b 515e36 43c9c9 510000 7994ff c9d75e ff0dff aec900 ffc9e4 00286b 796bff c98651 ae9436 ff8643 ffd75e ffffa1
86c9a1 1b2800 00a1ff 5e5186 6b6b0d 86ff94 ff9479 005e36 510079 002836 ff5ec9 940d0d ff79ae c93686 36a100 ae435e
d7ffbc ffbc00 51515e 28000d 0dffae bcae00 bc6bf2 0086bc ffffd7 2851ae 0036ae 860d51 86bce4 ffd7c9 5136ff 86aeae
c90d36 c9ff36 43a143 6b1bbc 1b365e ffff5e 514300 f25eff 0dc951 86bc43 bcaeff c91b0d ffff00 866bc9 f286d7 28c9a1
e494bc ff6b5e 00d7ff ff3686 aebc79 6bff5e bca1a1 e4e4ff 7986a1 517979 796b5e
"""
COLORS = np.array([list(bytes.fromhex(code)) for code in _HEX.split()], np.uint8)
"""155 colours, uint8 RGB: CIE76 of any two, and to black, is at least 20, to white at least 16.

They are a largest set of such colours on a grid of sRGB; each differs most from those before it.
"""


def palette(classes: int) -> np.ndarray:
    """The colour of every class, uint8 RGB (T, 3): the same for any T, repeated after 155."""
    return COLORS[np.arange(classes) % len(COLORS)]


def map_palette(labels: np.ndarray, classes: int) -> np.ndarray:
    """The palette (T, 3) of labels (H, W): :func:`palette`, changed where classes share a colour.

    Of those the first one keeps it, and the others get colours that no class of the map has. On a
    map of more than 155 classes, those that touch (at a corner, too) still differ.
    """
    colors = palette(classes)
    present = np.unique(labels[labels != NO_CLASS]).tolist()
    owners = {i % len(COLORS): i for i in reversed(present)}
    slots = {i: slot for slot, i in owners.items()}
    used = Counter(slots.values())
    touching = _touching(labels) if len(present) > len(COLORS) else {}
    for i in [i for i in present if i not in slots]:
        near = {slots[j] for j in touching.get(i, ()) if j in slots}
        free = [s for s in range(len(COLORS)) if s not in near] or list(range(len(COLORS)))
        slots[i] = min(free, key=lambda s: (used[s], (s - i) % len(COLORS)))
        used[slots[i]] += 1
        colors[i] = COLORS[slots[i]]
    return colors


def _touching(labels: np.ndarray) -> dict[int, set[int]]:
    """For each class of a label map (H, W) the classes that touch it, at corners too."""
    found: dict[int, set[int]] = defaultdict(set)
    across = [(labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])]
    diagonal = [(labels[1:, 1:], labels[:-1, :-1]), (labels[1:, :-1], labels[:-1, 1:])]
    for one, other in across + diagonal:
        different = (one != other) & (one != NO_CLASS) & (other != NO_CLASS)
        for a, b in np.unique(np.stack([one[different], other[different]]), axis=1).T.tolist():
            found[a].add(b)
            found[b].add(a)
    return found


def line_width(shape: tuple[int, ...]) -> int:
    """Width in pixels of lines on an image (H, W, ...): 1 below 960 x 960, more above."""
    return max(1, round((shape[0] * shape[1]) ** 0.5 / 640))


def paint(
    image: np.ndarray, labels: np.ndarray, colors: np.ndarray, alpha: float = 0.55
) -> np.ndarray:
    """Blend colours (T, 3) of labels (H, W) over an image (H, W, 3), all uint8 RGB, and outline the
    regions; see :func:`line_width`. The opacity of the colours is ``alpha``, 0..1.
    """
    painted = labels != NO_CLASS
    blend = image.astype(np.float32)
    blend[painted] = (1 - alpha) * blend[painted] + alpha * colors[labels[painted]]
    edges = np.zeros(labels.shape, np.uint8)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    width = line_width(labels.shape)
    blend[cv2.dilate(edges, np.ones((width, width), np.uint8)) > 0] = 255
    return blend.astype(np.uint8)


def overlay(
    image: np.ndarray, labels: np.ndarray, names: list[str], steady: bool = False
) -> np.ndarray:
    """The painted image with a legend of the classes that occur, largest first; see :func:`paint`.

    ``steady`` is for the frames of a video: a class has its colour of :func:`palette` in all of
    them, and the legend has room for the longest name, so that they are of one size.
    """
    return _painted(image, [labels], names, steady)


def label_image(labels: np.ndarray, classes: int, steady: bool = False) -> Image.Image:
    """A label map (H, W) as a palette image of class indices in the colours of :func:`map_palette`
    (:func:`palette` if ``steady``), 255 and black for ``NO_CLASS``; from 255 classes on a 16-bit
    grey image, with 65535 for it.
    """
    if classes >= 255:
        return Image.fromarray(np.where(labels == NO_CLASS, 65535, labels).astype(np.uint16))
    image = Image.fromarray(np.where(labels == NO_CLASS, 255, labels).astype(np.uint8))
    # all of them: with fewer, PNG packs the pixels into fewer bits and 255 is lost
    colors = np.zeros((256, 3), np.uint8)
    colors[:classes] = palette(classes) if steady else map_palette(labels, classes)
    image.putpalette(colors.ravel().tolist())
    return image


def comparison(
    image: np.ndarray, truth: np.ndarray, labels: np.ndarray, names: list[str]
) -> np.ndarray:
    """Input, truth, prediction and legend side by side; unlabelled pixels stay unpainted in both."""
    labels = np.where(truth == NO_CLASS, NO_CLASS, labels)
    return np.concatenate([_enlarge(image), _painted(image, [truth, labels], names)], axis=1)


def _painted(
    image: np.ndarray, maps: list[np.ndarray], names: list[str], steady: bool = False
) -> np.ndarray:
    """The image painted with each of the maps, side by side, and one legend."""
    image, maps = _enlarge(image), [_enlarge(labels) for labels in maps]
    together = np.concatenate(maps)
    colors = palette(len(names)) if steady else map_palette(together, len(names))
    panel = legend(together, names, colors, len(image), line_width(image.shape), steady)
    return np.concatenate([*(paint(image, labels, colors) for labels in maps), panel], axis=1)


def legend(
    labels: np.ndarray,
    names: list[str],
    colors: np.ndarray,
    height: int,
    scale: int = 1,
    steady: bool = False,
) -> np.ndarray:
    """White panel (height, W', 3) with the classes of labels (H, W), largest first, and how many
    more, in lines of 22 pixels times ``scale``; ``steady`` makes it wide enough for every name.
    """
    present, areas = np.unique(labels[labels != NO_CLASS], return_counts=True)
    order = present[np.argsort(-areas, kind="stable")].tolist()
    fitting = max(1, height // (22 * scale))
    shown = order if len(order) <= fitting else order[: fitting - 1]
    lines = [(names[i], colors[i].tolist()) for i in shown]
    if len(shown) < len(order):
        lines.append((f"and {len(order) - len(shown)} more", [255, 255, 255]))
    texts = [*names, f"and {len(names)} more"] if steady else [text for text, _ in lines]
    width = scale * (40 + 9 * max(map(len, texts), default=4))
    panel = np.full((height, width, 3), 255, np.uint8)
    for k, (text, color) in enumerate(lines):
        corner, opposite, place = scale * (np.array([(6, 5), (22, 18), (28, 17)]) + (0, 22 * k))
        cv2.rectangle(panel, corner, opposite, color, -1)
        font = cv2.FONT_HERSHEY_SIMPLEX, 0.45 * scale
        cv2.putText(panel, text, place, *font, (0, 0, 0), scale, cv2.LINE_AA)
    return panel


def _enlarge(x: np.ndarray, side: int = 320) -> np.ndarray:
    """Repeat the pixels of a small image so that a legend beside it is readable."""
    scale = max(1, round(side / max(x.shape[:2])))
    return x.repeat(scale, 0).repeat(scale, 1)
