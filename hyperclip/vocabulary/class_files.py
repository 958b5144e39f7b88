"""Class files: JSON whose keys and types are checked before anything is made of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

WORDS = ("negatives", "background")
KEYS = ("name", "version", "source", "classes", *WORDS)


def read_class_file(path: Path) -> Any:
    """What a class file holds: a list, or an object whose "negatives" and "background" are names.

    Raises ValueError for what is no JSON in UTF-8, or a key that is unknown or there twice.
    """
    where = f"class file {str(path)!r}"
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, or a key twice
        raise ValueError(f"{where}: not JSON in UTF-8 ({error})") from error
    if not isinstance(content, dict):
        return content
    unknown = sorted(content.keys() - set(KEYS))
    if unknown and "classes" in content:
        problem = f"got the unknown keys {unknown}, expected of {list(KEYS)}"
        raise ValueError(f"{where}: {problem}. Remove or correct them")
    for kind in WORDS:
        if not are_names(content.get(kind, [])):
            expected = 'expected a list of names such as ["wall", "sky"]'
            raise ValueError(f"{where}: {kind}: got {content[kind]!r}, {expected}")
    return content


def are_names(value: Any) -> bool:
    """Whether a value of JSON is a list of texts."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no key may be there twice."""
    key, often = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 0)
    if often > 1:
        raise ValueError(f"the key {key!r} is there twice")
    return dict(pairs)
