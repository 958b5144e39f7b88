"""Class names as the tokenizer reads them, and how a list or a text is split into classes.

CLIP's tokenizer lower-cases, joins spaces, resolves HTML entities and unifies Unicode's forms and
widths. Names that differ in these alone have the same tokens, hence the same embedding, and the
later of two such classes could never be predicted.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

logger = logging.getLogger("hyperclip.vocabulary")

CLASS_END = re.compile("[;\uff1b\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
"""What separates classes in a text: a semicolon, also a wide one, or the end of a line."""
COMMA = re.compile("[,\uff0c\u3001]")
"""What separates synonyms: a comma, also a wide or an ideographic one."""


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer  # here, since it brings torch with it

    return SimpleTokenizer()


@lru_cache(maxsize=65_536)
def tokens_of(name: str) -> tuple[int, ...]:
    """CLIP's tokens of a name, without those around a prompt."""
    return tuple(_tokenizer().encode(name))


def _letters(name: str) -> str:
    """A name without spaces: equal where the tokens are equal, and far cheaper than these."""
    if not (name.isascii() and name.isprintable() and "&" not in name):
        name = _tokenizer().clean_fn(name)
    return "".join(name.lower().split())


def is_blank(name: str) -> bool:
    """Whether nothing of a name reaches the model."""
    return not _letters(name)


def shared_names(
    classes: Sequence[Sequence[str]], start: int = 0
) -> Iterator[tuple[int, str, int, str]]:
    """Names that two classes have in common, as (class, its name, later class, its name), where the
    later class is the one at ``start`` or one behind it.
    """
    seen: dict[str, list[tuple[int, str]]] = {}
    for later, synonyms in enumerate(classes):
        for name in synonyms:
            same_letters = seen.setdefault(_letters(name), [])
            for earlier, other in same_letters:
                if not start <= later != earlier:
                    continue
                if other == name or tokens_of(other) == tokens_of(name):
                    yield earlier, other, later, name
            same_letters.append((later, name))


def distinct(names: Sequence[str]) -> list[str]:
    """The names without those that have the tokens of an earlier one."""
    repeated = {later for _, _, later, _ in shared_names([(name,) for name in names])}
    return [name for k, name in enumerate(names) if k not in repeated]


def both(one: str, other: str) -> str:
    """Two names that are the same, in words."""
    return repr(one) if one == other else f"{one!r} ({other!r} has the same tokens)"


def split_synonyms(entry: str) -> tuple[str, ...]:
    """The synonyms of an entry of a class list; a single name stays as it is written."""
    if not COMMA.search(entry):
        return (entry,)
    return tuple(part.strip() for part in COMMA.split(entry) if part.strip()) or ("",)


def split_words(text: str) -> tuple[str, ...]:
    """Names of a text, separated by anything that separates classes or synonyms."""
    words = (word.strip() for entry in CLASS_END.split(text) for word in COMMA.split(entry))
    return tuple(filter(None, words))


def split_entries(
    entries: Sequence[str | Sequence[str]], where: str
) -> tuple[tuple[str, ...], ...]:
    """Classes of a list in a file, each a text with commas or a list of synonyms; a single text is
    checked by :func:`refuse_one_by_accident`.
    """
    classes = tuple(split_synonyms(e) if isinstance(e, str) else tuple(e) for e in entries)
    if len(entries) == 1 and isinstance(entries[0], str):
        refuse_one_by_accident(classes[0], where, "make it a list of lists: [[…]]")
    return classes


def refuse_one_by_accident(synonyms: tuple[str, ...], where: str, how: str) -> str:
    """Refuse the ``synonyms`` of a single class, where several classes were probably meant.

    More than two different names are a ValueError, which says ``how`` to write synonyms. Two are
    often synonyms: they cause a warning, which is logged and returned; else "".
    """
    names = distinct(synonyms)
    if len(names) < 2:
        return ""
    found = f"{where}: got one class with the synonyms {', '.join(names)!r}"
    several = f"for {len(names)} classes write {'; '.join(names)!r} or a line for each"
    advice = f"{several}; for one class {how}"
    if len(names) > 2:
        problem = "since commas separate synonyms. Expected several classes"
        raise ValueError(f"{found}, {problem}: {advice}")
    logger.warning("%s: %s", found, advice)
    return f"{found}: {advice}"
