"""Small videos whose frames say by their brightness which they are, and a predictor that reads it.

Frame k of :func:`write_video` is grey of level 16 k + 8, for k = 0..15, and again from 0; the
predictor's classes are these 16 levels, so that labels tell which frame they are of.
"""

from __future__ import annotations

import os
import weakref
from types import SimpleNamespace

import cv2
import numpy as np
from hyperclip.prediction import Prediction
from hyperclip.predictor import EncodedImage

LEVELS = 16
WORDS = "; ".join(f"level {k}" for k in range(LEVELS))


def frame_of(number, size=(64, 48)):
    """The frame of a number as an array (H, W, 3)."""
    return np.full((size[1], size[0], 3), 16 * (number % LEVELS) + 8, np.uint8)


def write_video(path, count, rate=10.0, size=(64, 48), code="mp4v"):
    """Write a video of so many frames."""
    fourcc = cv2.VideoWriter.fourcc(*code)
    writer = cv2.VideoWriter(os.fspath(path), cv2.CAP_FFMPEG, fourcc, rate, size)
    assert writer.isOpened()
    for number in range(count):
        writer.write(frame_of(number, size))
    writer.release()


def read_video(path):
    """All frames of a video, RGB, and its rate."""
    capture = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG)
    assert capture.isOpened(), path
    rate, frames = capture.get(cv2.CAP_PROP_FPS), []
    while True:
        there, pixels = capture.read()
        if not there:
            return frames, rate
        frames.append(pixels[..., ::-1])


class LevelPredictor:
    """Stands for a Predictor: the class of all pixels is their mean level.

    ``alive`` holds, for each image that was encoded, how many of those before it still exist.
    ``before(count)`` is called with the number of images so far.
    """

    def __init__(self, before=lambda count: None):
        self.model = SimpleNamespace(text=None, check=lambda vocabulary: None)
        self.before, self.alive, self.seen = before, [], []

    def check(self, vocabulary):
        """Takes every vocabulary."""

    def encode(self, image, file_name=""):
        self.before(len(self.seen))
        self.alive.append(sum(known() is not None for known in self.seen))
        self.seen.append(weakref.ref(image))
        return EncodedImage(int(image.mean() // (256 / LEVELS)), image.shape[:2])

    def answer(self, encoded, question):
        labels = np.full(encoded.size, encoded.encoded, np.int64)
        maps = np.zeros((len(question.vocabulary), *encoded.size), np.float32)
        maps[encoded.encoded] = 0.75
        confidence = np.full(encoded.size, 0.75, np.float32)
        names = question.vocabulary.names
        return Prediction(labels, confidence, names, scores=maps if question.scores else None)


class Camera:
    """A camera that gives the frames of :func:`frame_of`, and then what ``end`` says."""

    def __init__(self, count, end=lambda: False):
        self.count, self.end, self.number = count, end, -1

    def isOpened(self):  # noqa: N802  (OpenCV's name)
        return True

    def get(self, key):
        return {cv2.CAP_PROP_FRAME_WIDTH: 64, cv2.CAP_PROP_FRAME_HEIGHT: 48}.get(key, -1)

    def grab(self):
        self.number += 1
        return self.number < self.count or self.end()

    def retrieve(self):
        return True, frame_of(self.number)

    def release(self):
        pass
