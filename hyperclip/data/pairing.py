"""Which image belongs to which label, by folders, names and lists. No image is opened."""

import codecs
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from .annotations.source import FolderSource, IndexSource, LabelReader
from .image_files import IMAGE_SUFFIXES, LABEL_SUFFIXES
from .layouts import Layout

logger = logging.getLogger(__name__)

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
    for part in Path(relative).parts:
        names = [] if (root / part).exists() or not root.is_dir() else sorted(os.listdir(root))
        root /= next((name for name in names if normal(name) == normal(part)), part)
    return root


@dataclass(frozen=True)
class Kind:
    """The images, or the labels (the ``word`` tells), of a layout: how their names end, and what
    they have before and after the key; ``others`` are names of files that are neither. The files
    are there once :func:`find_files` was called.
    """

    word: str
    folder: Path
    suffixes: tuple[str, ...]
    affix: tuple[str, str]
    others: tuple[str, ...] = ()
    files: dict[str, Path] = field(default_factory=dict)

    def takes(self, path: Path) -> bool:
        """Whether a file has one of the suffixes and the affixes, and is no converted label."""
        before, after = self.affix
        stem = normal(path.stem)
        if path.name in self.others:
            return False
        if path.suffix.lower() not in self.suffixes or len(stem) < len(before) + len(after):
            return False
        if self.word == "label" and stem.endswith(CONVERTED) and not after.endswith(CONVERTED):
            return False
        return stem.startswith(normal(before)) and stem.endswith(normal(after))

    def key(self, path: Path) -> str:
        """What an image and its label share: the path without suffix and affixes, in NFC."""
        return self.bare(normal(path.relative_to(self.folder).with_suffix("").as_posix()))

    def bare(self, name: str) -> str:
        """A name without the affixes."""
        folder, slash, last = name.rpartition("/")
        before, after = map(normal, self.affix)
        return folder + slash + last.removeprefix(before).removesuffix(after)


def kinds_of(layout: Layout, root: Path) -> tuple[Kind, Kind]:
    """Images and labels of a layout."""
    images, labels = find_path(root, layout.images), find_path(root, layout.labels)
    image_kind = Kind("image", images, IMAGE_SUFFIXES, layout.image_affix)
    label_kind = Kind("label", labels, LABEL_SUFFIXES, layout.label_affix)
    if isinstance(layout.source, FolderSource):
        suffixes, others = layout.source.suffixes, layout.source.others
        label_kind = replace(label_kind, suffixes=suffixes, others=others)
    elif isinstance(layout.source, IndexSource):  # it names images
        label_kind = replace(label_kind, suffixes=(), affix=layout.image_affix)
    return image_kind, label_kind


def walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, links followed, but hidden ones and those in hidden folders. A
    link that leads back to a folder around it is left out.
    """
    return _walk(folder, frozenset())


def _walk(folder: Path, around: frozenset[str]) -> Iterator[Path]:
    place = os.path.realpath(folder)
    if place in around or not folder.is_dir():
        return
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        logger.warning("%s: left out: %s", folder, error.strerror)
        return
    for name in names:
        path = folder / name
        if is_hidden(name):
            continue
        if path.is_dir():
            yield from _walk(path, around | {place})
        else:
            yield path


def find_files(images: Kind, labels: Kind, faults: list[str]) -> None:
    """Find the files of both kinds. Those of the same key, or that could be both, are faults."""
    for kind, paths in zip((images, labels), _apart(images, labels, faults), strict=True):
        for path in paths:
            first = kind.files.setdefault(kind.key(path), path)
            if first != path:
                faults.append(f"{first} and {path} have the same name")


def find_listed(
    source: IndexSource, root: Path, images: Kind, labels: Kind, faults: list[str]
) -> dict[str, LabelReader]:
    """Find the images, and the labels that the file ``labels.folder`` has for them; the reader of
    each label by key. Names that are there twice are faults. Raises as :meth:`IndexSource.entries`.
    """
    readers: dict[str, LabelReader] = {}
    entries = source.entries(labels.folder, root)
    inside = {path for path, _ in entries.values()}  # PNGs may lie below the folder of the images
    for path in sorted(filter(images.takes, walk(images.folder))):
        if path not in inside and images.files.setdefault(images.key(path), path) != path:
            faults.append(f"{images.files[images.key(path)]} and {path} have the same name")
    lister = ListReader(labels.folder, images, labels)
    for name, (path, reader) in entries.items():
        key = lister.find(normal(name), images) or images.bare(_without_suffix(normal(name)))
        if key in readers:
            faults.append(f"{key} is twice in {labels.folder}")
        elif path.is_file():
            labels.files[key], readers[key] = path, reader
        else:
            faults.append(f"{path} does not exist, the label of {name} in {labels.folder}")
    return readers


def _apart(images: Kind, labels: Kind, faults: list[str]) -> tuple[list[Path], list[Path]]:
    """The files of both kinds. Where one folder holds both, a file that both kinds take goes to the
    one with the deeper folder or else the longer affix.
    """
    image_paths, label_paths = (sorted(filter(k.takes, walk(k.folder))) for k in (images, labels))
    image_folder, label_folder = (Path(os.path.realpath(k.folder)) for k in (images, labels))
    if not (image_folder.is_relative_to(label_folder) or label_folder.is_relative_to(image_folder)):
        return image_paths, label_paths
    both = {*map(os.path.realpath, image_paths)} & {*map(os.path.realpath, label_paths)}
    only_images = [path for path in image_paths if os.path.realpath(path) not in both]
    image_rank = len(image_folder.parts), len("".join(images.affix))
    label_rank = len(label_folder.parts), len("".join(labels.affix))
    if image_rank > label_rank:
        return image_paths, [path for path in label_paths if os.path.realpath(path) not in both]
    if image_rank == label_rank:
        # x.jpg beside x.png: the one that is no label leaves the other
        certain = {images.key(path) for path in only_images}
        advice = "give one of them an affix, or a folder of its own"
        faults += [
            f"{path} could be an image and a label: {advice}"
            for path in image_paths
            if os.path.realpath(path) in both and images.key(path) not in certain
        ]
    return only_images, label_paths


def left_out(images: Kind, labels: Kind) -> list[str]:
    """A line for each kind whose folder has files that are not taken for their suffix or ending."""
    lines = []
    for kind in (images, labels):
        is_label = kind.word == "label"
        names: dict[str, list[str]] = {}
        for path in walk(kind.folder):
            suffix = path.suffix.lower()
            if path.name in labels.others or kind is not labels and labels.takes(path):
                continue
            foreign = suffix not in kind.suffixes and images.folder != labels.folder
            end = next((c for c in CONVERTED if is_label and path.stem.endswith(c)), "")
            if end and not kind.takes(path):
                names.setdefault(f"*{end}{path.suffix}", []).append(path.name)
            elif foreign or suffix not in (*IMAGE_SUFFIXES, *labels.suffixes):
                names.setdefault(f"*{path.suffix}", []).append(path.name)
        if names:
            listed = ", ".join(f"{len(n)} {end} ({min(n)} …)" for end, n in sorted(names.items()))
            masks = is_label and labels.suffixes == LABEL_SUFFIXES
            lossless = ", which keep every value; others need a label_affix" if masks else ""
            taken = f"{kind.word}s are {' '.join(kind.suffixes)}{lossless}"
            lines.append(f"left out in {kind.folder}: {listed}; {taken}")
    return lines


def read_list(path: Path) -> list[str]:
    """Non-empty lines of a list, in UTF-8 or, with a byte order mark, UTF-16; else ValueError."""
    content = path.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if wide else "utf-8-sig"
    try:
        return [line.strip() for line in content.decode(encoding).splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"list {str(path)!r} is no text file: {error}") from error


@dataclass(frozen=True)
class ListReader:
    """What the lines of the list ``path`` name: an image, a label, or one and then the other."""

    path: Path
    images: Kind
    labels: Kind

    def pairs(self, faults: list[str]) -> list[tuple[str, str]]:
        """(key of an image, key of its label) for each line, sorted; the rest becomes faults."""
        named = [self._pair(line) for line in read_list(self.path)]
        often = Counter(image for image, _ in named)
        faults += [f"{key} is twice in {self.path}" for key in sorted(often) if often[key] > 1]
        if not named:
            faults.append(f"{self.path} is empty")
        named = sorted(set(named))
        images, labels, where = self.images.files, self.labels.files, f"listed in {self.path}"
        faults += [f"no image for {i}, {where}" for i, _ in named if i not in images]
        faults += [f"no label for {k}, {where}" for _, k in named if k not in labels]
        return [(i, k) for i, k in named if i in images and k in labels]

    def _pair(self, line: str) -> tuple[str, str]:
        line = normal(line).replace("\\", "/")
        if whole := self.find(line, self.images) or self.find(line, self.labels):
            return whole, whole
        for gap in re.finditer(r"\s*[\s,;]\s*", line):  # names may have blanks in them
            image = self.find(line[: gap.start()], self.images)
            label = self.find(line[gap.end() :], self.labels)
            if image and label:
                return image, label
        # the first word counts, while a number or so may follow
        words = re.split(r"[\s,;]+", line)
        first = self.find(words[0], self.images) or self.find(words[0], self.labels)
        key = first or self.images.bare(_without_suffix(words[0]))
        if len(words) == 1 or not ("/" in words[1] or words[1].lower().endswith(IMAGE_SUFFIXES)):
            return key, key
        # the name of a file is the label, whether it is there or not
        return key, self.find(words[1], self.labels) or words[1]

    def find(self, name: str, kind: Kind) -> str | None:
        """The key that a name means, with or without suffix and affixes. Folders before it have to
        lead to the kind's folder: ``photos/a.jpg`` is ``a`` of ``/data/photos`` and no other.
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
                    if key in kind.files:
                        return key
        return None


def _without_suffix(name: str) -> str:
    return name.rsplit(".", 1)[0] if name.lower().endswith(IMAGE_SUFFIXES) else name
