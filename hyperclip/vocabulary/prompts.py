"""How a class of a file is prompted besides its names: descriptions, and templates of its own.

In a class file such a class is an object instead of a list of synonyms:

    {"name": "crane", "descriptions": ["a tall machine that lifts loads on building sites"]}
    {"names": ["crane", "tower crane"], "templates": ["a photo of a {}.", "a {} above a roof."]}

Descriptions are embedded beside the names in the templates, of which ``"templates": []`` leaves
none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import names as naming

KEYS = ("name", "names", "descriptions", "templates")


@dataclass(frozen=True)
class Prompts:
    """Descriptions, sentences as they are, and templates with one ``{}`` for the name, None for
    the model's own; ValueError for an empty sentence, one that is there twice, a template without
    ``{}``, and where nothing is left to prompt.
    """

    descriptions: tuple[str, ...] = ()
    templates: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for kind, sentences in (("descriptions", self.descriptions), ("templates", self.templates)):
            for sentence in sentences or ():
                if naming.is_blank(sentence):
                    raise ValueError(f"{kind} {list(sentences or ())}: one is empty")
            if len(set(sentences or ())) < len(sentences or ()):
                raise ValueError(f"{kind} {list(sentences or ())}: one is there twice; remove one")
        for template in self.templates or ():
            around = template.replace("{}", "", 1)
            if around == template or set("{}") & set(around):
                expected = "expected a sentence with one {} for the name, such as 'a photo of a {}'"
                raise ValueError(f"templates: got {template!r}, {expected}")
        if self.templates == () and not self.descriptions:
            raise ValueError("no templates and no descriptions: nothing is left to ask")

    def sentences(self, templates: Sequence[str], name: str) -> list[str]:
        """The name in its own templates, else in these of the model."""
        chosen = templates if self.templates is None else self.templates
        return [template.format(name) for template in chosen]

    def as_json(self, names: Sequence[str]) -> Any:
        """The class of these names as it stands in a file."""
        if self == Prompts():
            return list(names)
        entry: dict[str, Any] = {"names": list(names)}
        if self.descriptions:
            entry["descriptions"] = list(self.descriptions)
        if self.templates is not None:
            entry["templates"] = list(self.templates)
        return entry


def read_class(entry: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], Prompts]:
    """The names and prompts of a class that a file holds as an object.

    Raises:
        ValueError: unknown keys, no name or "name" with "names", values of another type, or as
            :class:`Prompts`; ``where`` begins the message.
    """
    if unknown := sorted(entry.keys() - set(KEYS)):
        expected = f"expected of {list(KEYS)}"
        raise ValueError(f"{where}: got the unknown keys {unknown}, {expected}. Remove or correct")
    if ("name" in entry) == ("names" in entry):
        raise ValueError(f'{where}: got {list(entry)}, expected either "name" or "names" with it')
    name = entry.get("name", "")
    if not isinstance(name, str):
        raise ValueError(f"{where}: name: got {name!r}, expected a text")
    lists = {key: entry[key] for key in KEYS[1:] if key in entry}
    for key, value in lists.items():
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            example = 'such as ["a tall machine that lifts loads"]' if key != "names" else ""
            raise ValueError(f"{where}: {key}: got {value!r}, expected a list of texts {example}")
    templates = tuple(lists["templates"]) if "templates" in lists else None
    try:
        prompts = Prompts(tuple(lists.get("descriptions", ())), templates)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return tuple(lists["names"]) if "names" in lists else naming.split_synonyms(name), prompts
