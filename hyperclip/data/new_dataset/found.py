"""What was found of the classes of a dataset."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..annotations.labelme import OUTSIDE
from ..annotations.source import Key

IGNORED_NAMES = ("background", "ignore", "unlabeled", "unlabelled", "void", *OUTSIDE)
"""Names of no class; the first two mean something else in a dataset file."""

PLACEHOLDER = "class_{}".format


@dataclass(frozen=True)
class FoundClass:
    """A key of the future ``label_map``: the class that it means or "ignore", and in words what was
    found of it.
    """

    key: Key
    name: str
    remark: str = ""


@dataclass
class FoundLabels:
    """Classes in their order, and lines on what their owner should know."""

    classes: list[FoundClass] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    named: bool = True

    @property
    def names(self) -> list[str]:
        """The names of the classes, each once, without "ignore"."""
        names = dict.fromkeys(one.name for one in self.classes)
        return [name for name in names if name != "ignore"]


def named_classes(entries: Iterable[tuple[Key, str, str]]) -> FoundLabels:
    """Classes of (key, name, remark) that files name.

    Names that differ in capitals and blanks alone are one class. What cannot be a class does not
    count, and what has no name gets one that has to be replaced. Notes say all of this.
    """
    found = FoundLabels()
    first: dict[str, tuple[Key, str]] = {}  # by the name in small letters
    for key, given, remark in entries:
        name = " ".join(given.split())
        if not name:
            name = PLACEHOLDER(key)
            found.notes.append(f"{key!r} has no name: it is called {name}, please name it")
        if name.casefold() in IGNORED_NAMES:
            found.notes.append(f"{key!r} ({name}) is no class: its pixels do not count")
            found.classes.append(FoundClass(key, "ignore", remark))
            continue
        other, used = first.setdefault(name.casefold(), (key, name))
        if other != key:
            found.notes.append(f"{other!r} and {key!r} have the same name, {used!r}: one class")
        found.classes.append(FoundClass(key, used, remark))
    return found


def with_names(found: FoundLabels, names: Mapping[Key, str]) -> FoundLabels:
    """What was found, with names by key from elsewhere. ValueError if none of the keys is there."""
    if not any(one.key in names for one in found.classes):
        keys = [one.key for one in found.classes][:5]
        raise ValueError(
            f"--names: got names of {list(names)[:5]}, expected some of the labels' {keys} …"
        )
    ignored = [one for one in found.classes if one.name == "ignore" and one.key not in names]
    others = [one for one in found.classes if one not in ignored]
    named = named_classes((one.key, names.get(one.key, one.name), one.remark) for one in others)
    named.classes += ignored
    named.notes[:0] = found.notes
    if unnamed := [one.key for one in others if one.key not in names]:
        named.notes.append(f"{unnamed[:10]} have no name: please name them")
    return named
