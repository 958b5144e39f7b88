"""What formats cannot hold: found from the names of the classes, before any image."""

import re
from collections.abc import Sequence

MOST_OF_8_BITS = 254
"""Classes of an 8-bit mask: 0 is no class, and readers ignore 255."""
NOT_PLAIN = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Control characters and halves of characters, which XML and UTF-8 refuse or change."""


def need_distinct(what: str, names: Sequence[str]) -> None:
    """ValueError, which begins with ``what``, for an empty name or one that is there twice."""
    if "" in names:
        raise ValueError(f"{what}: got an empty name, expected a name for each class")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{what}: got the name {twice!r} twice. Rename one of the classes")


def need_8_bits(what: str, names: Sequence[str]) -> None:
    """ValueError for more classes than an 8-bit mask holds."""
    if len(names) > MOST_OF_8_BITS:
        raise ValueError(
            f"{what}: got {len(names)} classes, expected at most {MOST_OF_8_BITS}, since its masks "
            "have 8 bits. Choose coco, npz or another format, or fewer classes"
        )


def need_plain(what: str, names: Sequence[str]) -> None:
    """ValueError for names with control characters, or halves of characters (surrogates)."""
    for name in names:
        if NOT_PLAIN.search(name):
            raise ValueError(
                f"{what}: got the name {name!r}, expected no control characters. Rename the class"
            )


def need_other_than(what: str, names: Sequence[str], reserved: str) -> None:
    """ValueError for a class whose name means no class in a format."""
    if reserved in names:
        raise ValueError(
            f"{what}: got a class called {reserved!r}, which the format calls pixels of no class. "
            "Rename the class"
        )
