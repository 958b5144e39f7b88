"""A few seconds of work whose answer is known: a drawn scene, the shipped tiny CLIP, five words.

Rounding differs between processors and decides the class of a pixel where two have almost the same
score. So what has to agree is a share of the labels; their checksum agrees on most machines.
"""

import hashlib
import time
from dataclasses import dataclass

import numpy as np

CONFIG = "configs/quickstart/dense_clip.yaml"
SCENE = 25
WORDS = (
    "green dotted star; blue plain square; blue plain cross; yellow striped triangle; "
    "purple striped square"
)
STRIDE, FIRST = 4, 2
NEEDED = 0.95
"""The share of labels that have to be the expected ones; noise of 3 grey levels leaves 0.98."""

EXPECTED = """
333333333333333333333333
333333333333333333333333
333333333333333333333333
333333333333333333333333
000033300033333333333333
000000000003333333300033
000000002220000000000003
000000002222000000000000
000000022222000000000000
000000022222000000000000
000000222222000000003300
000000222220000000003300
000000000000000000300000
000000000000000000000000
000000000033000000000000
000000300033200000000000
000000030000220000000000
000000033002222000000000
333300033022222000000033
333330333302220000000333
333333333300000000033333
333333333330000000333333
333333333333033333333333
333333333333333333333333
"""
"""The label of every fourth pixel of every fourth row."""


@dataclass(frozen=True)
class SelfTest:
    """How much of the answer is as expected, 0 to 1, its checksum, and the seconds it took."""

    share: float
    checksum: str
    expected: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether enough labels are the expected ones."""
        return self.share >= NEEDED


def expected_labels() -> np.ndarray:
    """The known answer, uint8 (24, 24)."""
    return np.array([[int(digit) for digit in row] for row in EXPECTED.split()], np.uint8)


def checksum(labels: np.ndarray) -> str:
    """The first half of the SHA-256 of labels."""
    return hashlib.sha256(labels.astype(np.uint8).tobytes()).hexdigest()[:32]


def compare(labels: np.ndarray, seconds: float) -> SelfTest:
    """Labels (24, 24) against the known ones."""
    expected = expected_labels()
    share = float((labels == expected).mean())
    return SelfTest(share, checksum(labels), checksum(expected), seconds)


def run_self_test() -> SelfTest:
    """Ask the shipped tiny CLIP about a drawn scene. Raises what a broken installation raises."""
    from ..predictor import Predictor
    from ..tinyscenes.drawing import render_scene

    start = time.perf_counter()
    image, _ = render_scene("val_unseen", SCENE)
    predictor = Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    predictor.set_image(image)
    labels = predictor.predict(WORDS).labels[FIRST::STRIDE, FIRST::STRIDE]
    return compare(labels, time.perf_counter() - start)
