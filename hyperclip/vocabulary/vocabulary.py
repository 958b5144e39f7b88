"""Vocabularies: classes with synonyms, read from versioned JSON, plain lists or typed text.

A name is what the tokenizer gives (see :mod:`hyperclip.vocabulary.names`): no two classes may be
asked the same, and typed ones have no name in common. The lists that ship with the package are
exempt, since they stay as released: ten classes of ade847 have the first name of an earlier one,
and are never predicted. A file with the same classes, or the first of them, counts as that list.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..runtime.files import local_path, read_json, user_path, write_text
from . import names as naming
from .prompts import Prompts, read_class

LISTS = Path(__file__).parent / "lists"
WORDS = ("negatives", "background")
KEYS = ("name", "version", "source", "classes", "typed", *WORDS)


@dataclass(frozen=True)
class Vocabulary:
    """Ordered classes; each is a tuple of synonyms whose first is the class's name.

    Attributes:
        classes: T tuples of synonyms. name, version: what results report.
        negatives: names of what is none of the classes, for systems that use them (CLIPer).
        background: names that are prompted like classes, but count as background.
        typed: whether a person wrote the names for this use, see :func:`synonym_rule`.
        doubt: what else may have been meant, or ""; programs without a log show it.
        prompts: of each class, see :class:`Prompts`; () where all are as the model has them.
        other: whether one more class is behind them, embedded as the mean of all the others.
        background_classes: how many of the last classes are background words, asked like classes.
        whole, places: of a :meth:`part`, the vocabulary that it is of, and its classes there.
    Raises:
        ValueError: no class, an empty name, two classes of the same names (if typed: with one in
            common), a negative or background word that is a class or is there twice.
    """

    classes: tuple[tuple[str, ...], ...]
    name: str = "custom"
    version: str = ""
    negatives: tuple[str, ...] = ()
    background: tuple[str, ...] = ()
    typed: bool = field(default=False, compare=False)
    doubt: str = field(default="", compare=False)
    other: bool = False
    prompts: tuple[Prompts, ...] = ()
    background_classes: int = field(default=0, compare=False)
    whole: Vocabulary | None = field(default=None, compare=False, repr=False)
    places: tuple[int, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.whole is not None:  # which was checked
            assert self.classes == tuple(self.whole.classes[k] for k in self.places)
            return
        if not self.classes:
            raise ValueError(f"vocabulary {self.name!r}: got no class, expected at least one name")
        for i, synonyms in enumerate(self.classes):
            if not synonyms or any(map(naming.is_blank, synonyms)):
                problem = f"class {i} has an empty name: {list(synonyms)}"
                raise ValueError(f"vocabulary {self.name!r}: {problem}")
        assert len(self.prompts) in (0, len(self.classes))
        self.check_asked(self.classes)
        self._check_words("negatives", self.negatives)
        self._check_words("background", self.background)

    def check_asked(self, asked: Sequence[Sequence[str]]) -> None:
        """Raise ValueError if two classes are prompted by the same names, or typed ones share one:
        the second could not be predicted.
        """
        if self.whole is not None:
            return
        for i, one, k, other in naming.shared_names(asked, _released_count(self.classes)):
            alike = {*map(naming.tokens_of, asked[i])} == {*map(naming.tokens_of, asked[k])}
            if not (alike or self.typed):
                continue
            other_way = "or remove one"
            if any(len(a) < len(s) for a, s in zip(asked, self.classes, strict=True)):
                other_way = "put another synonym first, or set MODEL.SYNONYMS to mean"
            raise ValueError(
                f"vocabulary {self.name!r}: classes {i} and {k} are both "
                f"{naming.both(one, other)}, so the second could not be told from the first. Make "
                f"them one class, {other_way}"
            )

    def _check_words(self, kind: str, words: Sequence[str]) -> None:
        where = f"vocabulary {self.name!r}: {kind} {list(words)}: "
        if any(map(naming.is_blank, words)):
            raise ValueError(where + "one is empty")
        taken = [name for synonyms in self.classes for name in synonyms]
        for i, one, k, other in naming.shared_names([taken, *((word,) for word in words)]):
            if i:
                raise ValueError(f"{where}{naming.both(one, other)} is there twice; remove one")
            word = naming.both(words[k - 1], one)
            raise ValueError(f"{where}{word} is also a class; remove one of the two")

    def __len__(self) -> int:
        return len(self.classes) + self.other

    @property
    def names(self) -> list[str]:
        """First synonym of every class."""
        return [synonyms[0] for synonyms in self.classes]

    def with_background_prompts(self) -> Vocabulary:
        """The classes and then one for each background word, as models are asked to fold them."""
        if not self.background:
            return self
        words = tuple((word,) for word in self.background)
        own = replace(self, whole=None, places=())
        count = self.background_classes + len(words)
        return replace(
            own,
            classes=own.classes + words,
            background=(),
            background_classes=count,
            prompts=self.prompts and self.prompts + (Prompts(),) * len(words),
        )

    def prompts_of(self, place: int) -> Prompts:
        """Those of a class."""
        return self.prompts[place] if self.prompts else Prompts()

    def part(self, places: Sequence[int]) -> Vocabulary:
        """The vocabulary of the classes at these places, one or more, ascending. It is embedded
        with the whole, so that asking for many parts embeds each name once.
        """
        words = sum(k >= len(self.classes) - self.background_classes for k in places)
        whole = self.whole or (replace(self, other=False) if self.other else self)
        return replace(
            self,
            classes=tuple(self.classes[k] for k in places),
            prompts=tuple(self.prompts[k] for k in places) if self.prompts else (),
            background_classes=words,
            whole=whole,
            places=tuple(self.places[k] for k in places) if self.whole else tuple(places),
        )

    @classmethod
    def from_names(cls, names: list[str], name: str = "custom", version: str = "") -> Vocabulary:
        """One class for each entry, with commas between synonyms as in CAT-Seg's class files."""
        return cls(tuple(naming.split_synonyms(entry) for entry in names), name, version)

    @classmethod
    def from_text(cls, text: str, negatives: str = "", name: str = "custom") -> Vocabulary:
        """Parse typed classes, ended by ``;`` or a line end, such as "dog, puppy; road".

        Raises ValueError, too, for more than two names with nothing but commas between them, which
        would be one class. A ``;`` at the end says that they are.
        """
        entries = [entry.strip() for entry in naming.CLASS_END.split(text) if entry.strip()]
        classes = tuple(naming.split_synonyms(entry) for entry in entries)
        doubt = ""
        if len(entries) == 1 and not {";", "\uff1b"} & set(text):
            how = f"put ';' at the end: {entries[0] + ';'!r}"
            doubt = naming.refuse_one_by_accident(classes[0], f"vocabulary {name!r}", how)
        return cls(classes, name, negatives=naming.split_words(negatives), typed=True, doubt=doubt)

    @classmethod
    def from_file(cls, path: str | Path) -> Vocabulary:
        """Read a class file: UTF-8 in ``.txt`` by :meth:`from_text`, else :meth:`from_json`."""
        path = local_path(path)
        if path.suffix.lower() != ".txt" or not path.is_file():
            return cls.from_json(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            problem = f"not text in UTF-8 ({error}). Save it as UTF-8"
            raise ValueError(f"class file {str(path)!r}: {problem}") from error
        return cls.from_text(text, name=path.stem)

    @classmethod
    def from_json(cls, path: str | Path) -> Vocabulary:
        """Read a plain list of names, or ``{"name", "version", "classes": [[synonym, …], …]}`` with
        optional "negatives", "background" and "typed". In both a class may be an object, see
        :mod:`hyperclip.vocabulary.prompts`. FileNotFoundError, or ValueError for anything else.
        """
        path = local_path(path)
        if not path.is_file():
            known = sorted(file.stem for file in LISTS.glob("*.json"))
            raise FileNotFoundError(
                f"class file: got {str(path)!r}, which does not exist. Expected a JSON list of "
                f"class names, or a .txt; the built-in ones are {known}"
            )
        content = _read_class_file(path)
        content, prompts = _without_prompts(content, f"class file {str(path)!r}")
        if isinstance(content, list) and all(isinstance(e, str) or _are_names(e) for e in content):
            classes = naming.split_entries(content, f"class file {str(path)!r}")
            return cls(classes, path.stem, prompts=prompts)
        try:
            if not all(isinstance(synonyms, list) for synonyms in content["classes"]):
                raise TypeError("a class is a list of synonyms")
            classes = tuple(tuple(map(str, synonyms)) for synonyms in content["classes"])
            negatives, background = (tuple(content.get(kind, ())) for kind in WORDS)
            named = (content["name"], content["version"])
            typed = content.get("typed", False)
            return cls(classes, *named, negatives, background, typed, prompts=prompts)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"class file {str(path)!r}: expected a list of names, or an object with name, "
                "version and classes (a list of lists of synonyms)"
            ) from error

    def to_json(self, path: str | Path) -> None:
        """Write what :meth:`from_json` reads as the same vocabulary, in full or not at all."""
        content = {key: getattr(self, key) for key in KEYS if getattr(self, key, None)}
        content |= {"name": self.name, "version": self.version}
        if self.prompts:
            both = zip(self.prompts, self.classes, strict=True)
            content["classes"] = [prompts.as_json(synonyms) for prompts, synonyms in both]
        write_text(user_path(path), json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def _read_class_file(path: Path) -> Any:
    """What a class file holds: a list, or an object whose "negatives" and "background" are names.

    Raises ValueError for what is no JSON in UTF-8, or a key that is unknown or there twice.
    """
    where = f"class file {str(path)!r}"
    content = read_json(path, "class file", object_pairs_hook=_unique)
    if not isinstance(content, dict):
        return content
    unknown = sorted(content.keys() - set(KEYS))
    if unknown and "classes" in content:
        problem = f"got the unknown keys {unknown}, expected of {list(KEYS)}"
        raise ValueError(f"{where}: {problem}. Remove or correct them")
    for kind in WORDS:
        if not _are_names(content.get(kind, [])):
            expected = 'expected a list of names such as ["wall", "sky"]'
            raise ValueError(f"{where}: {kind}: got {content[kind]!r}, {expected}")
    if not isinstance(content.get("typed", False), bool):
        raise ValueError(f"{where}: typed: got {content['typed']!r}, expected true or false")
    return content


def _without_prompts(content: Any, where: str) -> tuple[Any, tuple[Prompts, ...]]:
    """The content of a class file with a list of synonyms for each class that is an object, and
    the prompts of all classes, () if none is; ValueError as :func:`read_class`.
    """
    entries = content.get("classes") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not any(isinstance(entry, dict) for entry in entries):
        return content, ()
    classes, prompts = [], []
    for k, entry in enumerate(entries):
        synonyms, own = entry, Prompts()
        if isinstance(entry, dict):
            synonyms, own = read_class(entry, f"{where}: class {k}")
        classes.append(list(synonyms) if isinstance(synonyms, tuple) else synonyms)
        prompts.append(own)
    return {**content, "classes": classes} if isinstance(content, dict) else classes, tuple(prompts)


def _are_names(value: Any) -> bool:
    """Whether a value of JSON is a list of texts."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no key may be there twice."""
    key, often = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 0)
    if often > 1:
        raise ValueError(f"the key {key!r} is there twice")
    return dict(pairs)


def synonym_rule(setting: str, typed: bool) -> str:
    """What synonyms do, "first", "mean" or "max", under a value of MODEL.SYNONYMS.

    None of the names that a person typed is dropped: for these "first" means "mean".
    """
    return "mean" if setting == "first" and typed else setting


def asked_names(vocabulary: Vocabulary, rule: str) -> list[list[str]]:
    """The prompted names of each class under a rule for synonyms; ValueError if two are alike."""
    asked = [list(s[:1]) if rule == "first" else naming.distinct(s) for s in vocabulary.classes]
    vocabulary.check_asked(asked)
    return asked


@lru_cache(maxsize=1)
def _released_lists() -> tuple[tuple[tuple[str, ...], ...], ...]:
    contents = [json.loads(path.read_bytes()) for path in sorted(LISTS.glob("*.json"))]
    return tuple(tuple(map(tuple, content["classes"])) for content in contents)


def _released_count(classes: Sequence[Sequence[str]]) -> int:
    """How many classes, from the first on, are those of a list that ships with the package.

    The list may go on behind them, or they behind the list; 0 if they are of none.
    """
    stripped = tuple(tuple(name.strip() for name in synonyms) for synonyms in classes)
    counts = ((known, min(len(known), len(stripped))) for known in _released_lists())
    return max((n for known, n in counts if known[:n] == stripped[:n]), default=0)


def builtin(name: str) -> Vocabulary:
    """A vocabulary that ships with the package, by the stem of its file in ``lists/``."""
    return Vocabulary.from_json(LISTS / f"{name}.json")


def load_vocabulary(source: str | Path, folder: str | Path = "") -> Vocabulary:
    """A built-in vocabulary by its name, or that of a file, whose name may be relative to
    ``folder``; see :meth:`Vocabulary.from_file`.
    """
    if (LISTS / f"{source}.json").is_file():
        return builtin(str(source))
    return Vocabulary.from_file(Path(folder, user_path(source)))
