"""Videos and webcams of the demo: frames in order, one at a time, and the painted video.

OpenCV reads and writes them. It turns frames upright as the file says, and leaves sound out. The
painted video has a constant rate of frames, and a frame stays until the next one's time, so that
it lasts as long as what it was made of, whatever that one's rate.
"""

import contextlib
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

logger = logging.getLogger("hyperclip.demo")

RATES = (1.0, 240.0)
"""Frames a second that a file or camera may state; outside of it that is no rate of a video."""
USUAL_RATE = 30.0
"""What is taken then."""
MOST_BROKEN = 300
"""Frames in a row that may be unreadable before the rest of a video is given up."""
LONGEST_FRAME = 60.0
"""Seconds that a frame is shown at most: more is a fault of the times in the file."""


@dataclass(frozen=True)
class Frame:
    """A frame of a video: its number from 0 on, its time, and its pixels, uint8 RGB (H, W, 3)."""

    number: int
    seconds: float
    image: np.ndarray


class VideoReader:
    """Reads a video file, or the camera of a number.

    Attributes:
        width, height: in pixels, of the frames as they are shown.
        rate: frames a second. announced: frames that the file says it has, 0 if it does not.
    Raises:
        ValueError: no video that OpenCV can read, or no such camera.
    """

    def __init__(self, source: Path | int) -> None:
        self.source = source
        if isinstance(source, int):
            self.capture = cv2.VideoCapture(source)
        else:  # by its whole path, in which nothing can be taken for an address
            self.capture = cv2.VideoCapture(os.path.abspath(source), cv2.CAP_FFMPEG)
        if not self.capture.isOpened():
            what = f"camera {source} cannot be opened; is there one, and may you use it?"
            if not isinstance(source, int):
                what = f"video {str(source)!r} cannot be read; is it empty, cut short, no video?"
            raise ValueError(what)
        self.width = int(self.capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        self.height = int(self.capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        stated = self.capture.get(cv2.CAP_PROP_FPS)
        self.rate = stated if RATES[0] <= stated <= RATES[1] else USUAL_RATE
        announced = 0 if isinstance(source, int) else self.capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.announced = max(0, int(announced))
        self.readable = self.broken = 0
        self._seconds = -1.0
        self._start = time.monotonic()

    def frames(self, every: int = 1) -> Iterator[Frame]:
        """Yield each frame whose number is a multiple of ``every``, in order; only one is kept."""
        number = unreadable = 0
        while unreadable <= MOST_BROKEN:
            if self.capture.grab():
                self.readable += 1
                self.broken += unreadable
                unreadable = 0
                self._seconds = self._time()
                if number % every == 0:
                    taken, pixels = self.capture.retrieve()
                    if taken:
                        yield Frame(number, self._seconds, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
            elif number >= self.announced:
                return
            else:
                unreadable += 1
            number += 1

    def _time(self) -> float:
        """Seconds from the start to the frame that was read last; they always grow."""
        if isinstance(self.source, int):
            return time.monotonic() - self._start
        stated = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if math.isfinite(stated) and stated > self._seconds:
            return stated
        return self._seconds + 1 / self.rate if self._seconds >= 0 else 0.0

    def fault(self) -> str:
        """What was wrong with the frames that have been read, or "".

        Some formats give a length, not a number of frames; OpenCV then estimates it, too high for a
        varying rate. So frames are missing at the end only if their time is, too.
        """
        if not self.readable:
            return "no frame can be read; is it empty or cut short?"
        missing = self.announced - self.readable - self.broken
        early = self._seconds + 2 / self.rate < self.announced / self.rate
        lost = self.broken + (missing if missing > 0 and early else 0)
        if not lost:
            return ""
        what = f"{self.readable} of {self.readable + lost} frames can be read"
        return f"{what}; is it damaged or cut short?"

    def close(self) -> None:
        """Give the file or camera back."""
        self.capture.release()


class VideoFile:
    """Writes the painted video ``NAME.mp4`` (MPEG-4) beside others, in a ``with`` statement.

    It gets its name when the statement ends. If that is by an exception, it holds what was done
    until then and gets the name of a part. OSError if it cannot be written.

    Args:
        target, part: the paths. rate: frames a second.
    """

    def __init__(self, target: Path, part: Path, rate: float) -> None:
        self.target, self.part, self.rate = target, part, max(rate, RATES[0])
        self.size: tuple[int, ...] = (0, 0)
        self.written = 0
        self._writer: cv2.VideoWriter | None = None
        self._last = np.empty(0)
        self._seconds = self._shown = 0.0
        target.parent.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(dir=target.parent, prefix=".video.")
        self._file = Path(self._folder.name) / "video.mp4"

    def __enter__(self) -> "VideoFile":
        return self

    def add(self, picture: np.ndarray, seconds: float) -> None:
        """Add a frame, uint8 RGB (H, W, 3), to be shown from a time on."""
        if self._writer is None:
            self._writer = self._open(picture)
        else:
            self._shown += min(seconds - self._seconds, LONGEST_FRAME)
        self._seconds = seconds
        pixels = self._fitted(picture)
        repeats = max(0, round(self._shown * self.rate) - self.written)
        for shown in [self._last] * repeats + [pixels]:
            self._writer.write(shown)
        self.written += repeats + 1
        self._last = pixels

    def _open(self, picture: np.ndarray) -> cv2.VideoWriter:
        self.size = tuple(side + side % 2 for side in picture.shape[1::-1])  # even, for MPEG-4
        code = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(self._file), cv2.CAP_FFMPEG, code, self.rate, self.size)
        if not writer.isOpened():
            what = f"a video of {self.size[0]} x {self.size[1]} pixels"
            raise OSError(f"{str(self.target)!r} cannot be written: OpenCV refuses {what}")
        return writer

    def _fitted(self, picture: np.ndarray) -> np.ndarray:
        """The picture as BGR, of the size of the first one: some videos change theirs."""
        pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        right, below = self.size[0] - pixels.shape[1], self.size[1] - pixels.shape[0]
        if 0 <= right <= 1 and 0 <= below <= 1:
            return cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE)
        return cv2.resize(pixels, self.size)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._folder:
            if self._writer is None:
                return
            self._writer.release()
            if frames_of(self._file) != self.written:
                if kind is None:
                    what = f"{str(self.target)!r} cannot be written"
                    raise OSError(f"{what}: frames are missing in it; is the disk full?")
                return
            if kind is None:
                os.replace(self._file, self.target)
                self.part.unlink(missing_ok=True)
            else:
                os.replace(self._file, self.part)
                logger.warning("%s holds the %d frames until then", self.part, self.written)


def frames_of(file: Path) -> int:
    """The number of frames that a video file says it has, 0 for none that can be read."""
    capture = cv2.VideoCapture(os.path.abspath(file), cv2.CAP_FFMPEG)
    try:
        return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    finally:
        capture.release()


def quiet_library() -> None:
    """Keep OpenCV and FFmpeg, which it uses, from writing to this process's stderr."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    with contextlib.suppress(AttributeError):  # not in every build of OpenCV
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
