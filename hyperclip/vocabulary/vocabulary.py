"""Vocabularies: ordered classes with their synonyms, read from versioned JSON, plain lists or typed text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from .class_files import read_class_file

LISTS = Path(__file__).parent / "lists"


@dataclass(frozen=True)
class Vocabulary:
    """Ordered classes; each is a tuple of synonyms whose first is the class's name.

    Attributes:
        classes: T tuples of synonyms.
        name, version: what results report.
        negatives: names of what is none of the classes, for systems that use them (CLIPer).
        background: names that are prompted like classes while predictions of them count as background.
    Raises:
        ValueError: no class, an empty name, two classes of the same synonyms, or a negative or background word that is
            also a class.
    """

    classes: tuple[tuple[str, ...], ...]
    name: str = "custom"
    version: str = ""
    negatives: tuple[str, ...] = ()
    background: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.classes:
            raise ValueError(f"vocabulary {self.name!r}: got no class, expected at least one name")
        seen: dict[tuple[str, ...], int] = {}
        for i, synonyms in enumerate(self.classes):
            if not synonyms or not all(s.strip() for s in synonyms):
                raise ValueError(f"vocabulary {self.name!r}: class {i} has an empty name: {list(synonyms)}")
            if synonyms in seen:
                raise ValueError(
                    f"vocabulary {self.name!r}: classes {seen[synonyms]} and {i} are both {', '.join(synonyms)!r}. "
                    "Remove one, or make them one class"
                )
            seen[synonyms] = i
        for kind in ("negatives", "background"):
            words = getattr(self, kind)
            both = [word for word in words if any(word in synonyms for synonyms in self.classes)]
            if both or not all(word.strip() for word in words):
                raise ValueError(
                    f"vocabulary {self.name!r}: {kind} {list(words)}: "
                    + (f"{both[0]!r} is also a class; remove one of the two" if both else "one is empty")
                )

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> list[str]:
        """First synonym of every class."""
        return [synonyms[0] for synonyms in self.classes]

    def with_background_prompts(self) -> Vocabulary:
        """The classes followed by a class for each background word: what a model is asked when those are folded."""
        return replace(self, classes=(*self.classes, *((word,) for word in self.background)), background=())

    @classmethod
    def from_names(cls, names: list[str], name: str = "custom", version: str = "") -> Vocabulary:
        """One class for each entry; ", " separates synonyms inside an entry, as in CAT-Seg's class files."""
        return cls(tuple(tuple(entry.split(", ")) for entry in names), name, version)

    @classmethod
    def from_text(cls, text: str, negatives: str = "") -> Vocabulary:
        """Parse what a user types: ``;`` between classes, ``,`` between synonyms ("dog, puppy; road").

        Args:
            negatives: names of what is none of the classes, ``;`` or ``,`` between them.
        """
        entries = [entry for entry in text.split(";") if entry.strip()]
        classes = tuple(tuple(s.strip() for s in entry.split(",") if s.strip()) for entry in entries)
        return cls(classes, negatives=tuple(n.strip() for n in negatives.replace(",", ";").split(";") if n.strip()))

    @classmethod
    def from_json(cls, path: str | Path) -> Vocabulary:
        """Read a vocabulary file: ``{"name", "version", "classes": [[synonym, …], …]}``, optionally with
        "negatives" and "background", or a plain list of names.

        Raises:
            FileNotFoundError: no such file. ValueError: not one of the two forms, an unknown key, or a key twice.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"class file: got {str(path)!r}, which does not exist. Expected a JSON list of class names; the "
                f"built-in ones are {sorted(p.stem for p in LISTS.glob('*.json'))}"
            )
        content = read_class_file(path)
        if isinstance(content, list) and all(isinstance(entry, str) for entry in content):
            return cls.from_names(content, path.stem)
        try:
            if any(isinstance(synonyms, str) for synonyms in content["classes"]):
                raise TypeError("a class is a list of synonyms")
            classes = tuple(tuple(map(str, synonyms)) for synonyms in content["classes"])
            others = {kind: tuple(map(str, content.get(kind, ()))) for kind in ("negatives", "background")}
            return cls(classes, content["name"], content["version"], **others)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"class file {str(path)!r}: expected a list of names, or an object with name, version and classes "
                "(a list of lists of synonyms)"
            ) from error


def builtin(name: str) -> Vocabulary:
    """A vocabulary that ships with the package, by the stem of its file in ``lists/``."""
    return Vocabulary.from_json(LISTS / f"{name}.json")


def load_vocabulary(source: str | Path) -> Vocabulary:
    """A vocabulary by the name of a built-in list or by the path of a file; see :meth:`Vocabulary.from_json`."""
    return builtin(str(source)) if (LISTS / f"{source}.json").is_file() else Vocabulary.from_json(source)
