"""Which image belongs to which label: folders, names and lists, on names alone. No image is
opened.
"""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .image_files import IMAGE_SUFFIXES, LABEL_SUFFIXES
from .layouts import Layout

CONVERTED = ("_labelTrainIds", "_instanceTrainIds")
"""How converters of other tools end the names of labels that they put beside the published ones."""

HIDDEN_FOLDERS = ("__MACOSX", "@eaDir")
"""What archives of macOS and Synology's file server put among other files."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data: ``.ipynb_checkpoints``, ``._x.jpg`` …"""
    return name.startswith(".") or name in HIDDEN_FOLDERS


def normal(name: str) -> str:
    """A name in NFC: macOS decomposes letters with accents, others do not."""
    return unicodedata.normalize("NFC", name)


def find_path(root: Path, relative: str) -> Path:
    """A path below a root, whichever way letters with accents are written on the disk."""
    path = root / relative
    if path.exists() or not root.is_dir():
        return path
    for part in Path(relative).parts:
        step = root / part
        if not step.exists() and root.is_dir():
            step = next(
                (root / name for name in sorted(os.listdir(root)) if normal(name) == normal(part)),
                step,
            )
        root = step
    return root


@dataclass(frozen=True)
class Kind:
    """The images, or the labels, of a layout.

    Attributes:
        word: "image" or "label". folder: where they are. suffixes: how their names end. affix:
            before and after the key.
    """

    word: str
    folder: Path
    suffixes: tuple[str, ...]
    affix: tuple[str, str]

    def takes(self, path: Path) -> bool:
        """Whether a file has one of the suffixes, and the affixes; labels that a converter left
        beside others have not.
        """
        before, after = self.affix
        stem = normal(path.stem)
        if path.suffix.lower() not in self.suffixes or len(stem) < len(before) + len(after):
            return False
        if self.word == "label" and any(
            stem.endswith(end) and not after.endswith(end) for end in CONVERTED
        ):
            return False
        return stem.startswith(normal(before)) and stem.endswith(normal(after))

    def key(self, path: Path) -> str:
        """What an image and its label share: the path in the folder without suffix and affixes, in
        NFC.
        """
        return self.bare(normal(path.relative_to(self.folder).with_suffix("").as_posix()))

    def bare(self, name: str) -> str:
        """A name without the affixes."""
        folder, slash, last = name.rpartition("/")
        return (
            folder
            + slash
            + last.removeprefix(normal(self.affix[0])).removesuffix(normal(self.affix[1]))
        )


def kinds_of(layout: Layout, root: Path) -> tuple[Kind, Kind]:
    """Images and labels of a layout."""
    return (
        Kind("image", find_path(root, layout.images), IMAGE_SUFFIXES, layout.image_affix),
        Kind("label", find_path(root, layout.labels), LABEL_SUFFIXES, layout.label_affix),
    )


def walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, links followed, but hidden ones and those in hidden folders."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (Path(parent) / name for name in names if not is_hidden(name))


def find_files(
    images: Kind, labels: Kind, faults: list[str]
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and labels by their keys. What is there twice, or could be both, is added to the
    faults.
    """
    image_paths, label_paths = (
        sorted(filter(kind.takes, walk(kind.folder))) for kind in (images, labels)
    )
    taken = _apart(images, labels, image_paths, label_paths, faults)
    found: list[dict[str, Path]] = []
    for kind, paths in zip((images, labels), taken, strict=True):
        by_key: dict[str, Path] = {}
        for path in paths:
            if (first := by_key.setdefault(kind.key(path), path)) != path:
                faults.append(f"{first} and {path} have the same name")
        found.append(by_key)
    return found[0], found[1]


def _apart(
    images: Kind, labels: Kind, image_paths: list[Path], label_paths: list[Path], faults: list[str]
) -> list[list[Path]]:
    """Give files that both kinds take, where one folder holds both, to the kind that says more
    about where and how.
    """
    folders = [Path(os.path.realpath(kind.folder)) for kind in (images, labels)]
    if not (folders[0].is_relative_to(folders[1]) or folders[1].is_relative_to(folders[0])):
        return [image_paths, label_paths]
    real = {os.path.realpath(path) for path in image_paths} & {
        os.path.realpath(path) for path in label_paths
    }
    only_images = [path for path in image_paths if os.path.realpath(path) not in real]
    only_labels = [path for path in label_paths if os.path.realpath(path) not in real]
    ranks = [
        (len(folder.parts), len("".join(kind.affix)))
        for kind, folder in zip((images, labels), folders, strict=True)
    ]
    if ranks[0] < ranks[1]:
        return [only_images, label_paths]
    if ranks[0] > ranks[1]:
        return [image_paths, only_labels]
    # x.jpg beside x.png: the one that is no label leaves the other
    certain = {images.key(path) for path in only_images}
    faults += [
        f"{path} could be an image and a label: give one of them an affix, or a folder of its own"
        for path in image_paths
        if os.path.realpath(path) in real and images.key(path) not in certain
    ]
    return [only_images, label_paths]


def left_out(images: Kind, labels: Kind) -> list[str]:
    """A line for each kind that tells which files of its folder were not taken for their suffix or
    ending, and why.
    """
    lines = []
    for kind in (images, labels):
        names: dict[str, list[str]] = {}
        for path in walk(kind.folder):
            end = next((c for c in CONVERTED if kind.word == "label" and path.stem.endswith(c)), "")
            if end and not kind.takes(path):
                names.setdefault(f"*{end}{path.suffix}", []).append(path.name)
            elif path.suffix.lower() not in IMAGE_SUFFIXES + LABEL_SUFFIXES or (
                path.suffix.lower() not in kind.suffixes and images.folder != labels.folder
            ):
                names.setdefault(f"*{path.suffix}", []).append(path.name)
        if names:
            listed = ", ".join(
                f"{len(found)} {end} ({min(found)} …)" for end, found in sorted(names.items())
            )
            lossless = (
                ", which keep every value; others need a label_affix"
                if kind.word == "label"
                else ""
            )
            lines.append(
                f"left out in {kind.folder}: {listed}; {kind.word}s are "
                f"{' '.join(kind.suffixes)}{lossless}"
            )
    return lines


def read_list(path: Path) -> list[str]:
    """Lines of a list that are not empty; UTF-8, with or without a byte order mark, or UTF-16 with
    one.

    Raises:
        ValueError: not a text file.
    """
    content = path.read_bytes()
    encoding = (
        "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    )
    try:
        return [line.strip() for line in content.decode(encoding).splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"list {str(path)!r} is no text file: {error}") from error


@dataclass(frozen=True)
class ListReader:
    """What the lines of a list name: an image, a label, or first one and then the other.

    Attributes:
        path: of the list. images, labels: the two kinds. image_keys, label_keys: the files that are
            there, by their keys.
    """

    path: Path
    images: Kind
    labels: Kind
    image_keys: dict[str, Path]
    label_keys: dict[str, Path]

    def pairs(self, lines: list[str], faults: list[str]) -> list[tuple[str, str]]:
        """(key of an image, key of its label) for each line, sorted; what is not there or twice is
        added to the faults.
        """
        named = [self._pair(line) for line in lines]
        often = Counter(image for image, _ in named)
        faults += [
            f"{key} is twice in {self.path}"
            for key in sorted(key for key, n in often.items() if n > 1)
        ]
        faults += [] if named else [f"{self.path} is empty"]
        named = sorted(set(named))
        faults += [
            f"no image for {image}, listed in {self.path}"
            for image, _ in named
            if image not in self.image_keys
        ]
        faults += [
            f"no label for {label}, listed in {self.path}"
            for _, label in named
            if label not in self.label_keys
        ]
        return [(i, k) for i, k in named if i in self.image_keys and k in self.label_keys]

    def _pair(self, line: str) -> tuple[str, str]:
        line = normal(line).replace("\\", "/")
        whole = self._find(line, self.images, self.image_keys) or self._find(
            line, self.labels, self.label_keys
        )
        if whole:
            return whole, whole
        for gap in re.finditer(r"\s*[\s,;]\s*", line):  # names may have blanks in them
            first = self._find(line[: gap.start()], self.images, self.image_keys)
            second = self._find(line[gap.end() :], self.labels, self.label_keys)
            if first and second:
                return first, second
        return self._first_word(re.split(r"[\s,;]+", line))

    def _first_word(self, words: list[str]) -> tuple[str, str]:
        """A name with something else behind it, such as a number; a second name of a file has to be
        there, though.
        """
        first = self._find(words[0], self.images, self.image_keys) or self._find(
            words[0], self.labels, self.label_keys
        )
        key = first or self.images.bare(_without_suffix(words[0]))
        names_file = len(words) > 1 and (
            "/" in words[1] or words[1].lower().endswith(IMAGE_SUFFIXES + LABEL_SUFFIXES)
        )
        if not names_file:
            return key, key
        return key, self._find(words[1], self.labels, self.label_keys) or words[1]

    def _find(self, name: str, kind: Kind, keys: dict[str, Path]) -> str | None:
        """The key that a name means: with or without suffix and affixes, in the folder or with
        folders before it that lead there: ``photos/a.jpg`` for ``a`` of ``/data/photos``, but never
        for ``a`` of another folder.
        """
        name = name.strip().strip("\"'")
        if ".." in name.split("/"):
            name = os.path.normpath(self.path.parent / name)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        folder = [part for part in normal(kind.folder.absolute().as_posix()).split("/") if part]
        for k in range(len(parts)):
            if k and parts[:k] != folder[-k:]:
                continue
            rest = "/".join(parts[k:])
            for bare in (rest, _without_suffix(rest)):
                for key in (bare, kind.bare(bare)):
                    if key in keys:
                        return key
        return None


def _without_suffix(name: str) -> str:
    return (
        name.rsplit(".", 1)[0] if name.lower().endswith(IMAGE_SUFFIXES + LABEL_SUFFIXES) else name
    )
