"""What a request may be, and how one is refused."""

import math
from dataclasses import dataclass

KINDS = {
    "bad_request": 400,
    "unauthorized": 401,
    "unknown_image": 404,
    "not_found": 404,
    "bad_method": 405,
    "slow_upload": 408,
    "too_large": 413,
    "bad_type": 415,
    "internal": 500,
    "busy": 503,
    "stopping": 503,
    "memory": 503,
    "timeout": 504,
}
"""Why requests are refused, each with its status of HTTP."""


class Refusal(Exception):
    """A request that gets no answer: why, one of ``KINDS``, and one line for whoever sent it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message

    @property
    def status(self) -> int:
        """Its status of HTTP."""
        return KINDS[self.kind]

    def as_json(self) -> dict[str, str]:
        """What the answer says of it."""
        return {"error": self.kind, "message": self.message}


@dataclass(frozen=True)
class Limits:
    """What a request may be at most.

    Attributes:
        bytes: of an image's file. pixels: of an image.
        names: classes, synonyms and negatives of a vocabulary. letters: characters of a name.
        seconds: that a body may take to arrive, and then its answer. waiting: requests at a time.
    Raises:
        ValueError: one that is not above 0.
    """

    bytes: int = 25 * 2**20
    pixels: int = 25_000_000
    names: int = 2000
    letters: int = 200
    seconds: float = 30.0
    waiting: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ValueError(f"limits: {name}: got {value}, expected a number above 0")

    @property
    def body(self) -> int:
        """Bytes of a body: those of an image as base64, and its words."""
        return self.bytes * 4 // 3 + 4 * self.text + 2**16

    @property
    def text(self) -> int:
        """Characters of a vocabulary's text."""
        return self.names * (self.letters + 2)

    def check_names(self, names: list[str]) -> None:
        """Refuse more names, or a longer one."""
        if len(names) > self.names:
            got = f"got {len(names)} names, expected at most {self.names}"
            raise Refusal("too_large", f"vocabulary: {got}. Ask for fewer at a time")
        for name in names:
            if len(name) > self.letters:
                got = f"got a name of {len(name)} characters, {name[:40]!r}…"
                expected = f"expected at most {self.letters}"
                raise Refusal("too_large", f"vocabulary: {got}, {expected}. Shorten it")

    def check_bytes(self, count: int) -> None:
        """Refuse a larger file of an image."""
        if count > self.bytes:
            got = f"got {count / 2**20:.1f} MB, expected at most {self.bytes / 2**20:g}"
            raise Refusal("too_large", f"image: {got}. Save it smaller, or more compressed")

    def check_pixels(self, width: int, height: int) -> None:
        """Refuse a larger image."""
        if width * height > self.pixels:
            got = f"got {width} x {height} = {width * height / 1e6:.1f} megapixels"
            expected = f"expected at most {self.pixels / 1e6:g}"
            raise Refusal("too_large", f"image: {got}, {expected}. Scale it down")
