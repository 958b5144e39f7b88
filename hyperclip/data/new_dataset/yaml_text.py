"""The text of a dataset file: plain YAML with comments."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ..annotations.source import Key
from .found import FoundLabels

UNNAMED = """\
# NAME THE CLASSES: nothing in the files says what they are, and the words are what the model is
# asked. Replace each class_… here and below. For pixels without a class, such as an unlabelled
# background, write ignore below, and remove the class here."""

SMALLER = "the smaller region wins where two overlap, of equal ones the later"
CROWDS = "crowd regions do not count (crowds: class would count them)"
RULES = {
    "coco": f"{SMALLER}; {CROWDS}",
    "coco_panoptic": CROWDS,
    "labelme": "a later shape wins where two overlap",
    "yolo": SMALLER,
    "colours": "transparent pixels have no label",
}
"""By format: a rule that the owner of a dataset should know."""


@dataclass(frozen=True)
class Content:
    """What a dataset file says. ``splits``: for each its keys; ``format``: of its labels."""

    name: str
    root: str
    format: str
    splits: Mapping[str, Mapping[str, Any]]
    found: FoundLabels
    orientation: str
    told: tuple[str, ...] = ()


def scalar(value: Any) -> str:
    """A text or whole number as YAML, inside a flow mapping or list too."""
    if not isinstance(value, str):
        return str(value)
    try:
        plain = yaml.safe_load(f"[{value}]") == [value] and yaml.safe_load(f"{value}: 1") == {
            value: 1
        }
    except (yaml.YAMLError, ValueError, TypeError):
        plain = False
    if plain and value.isprintable() and "#" not in value:
        return value
    return json.dumps(value, ensure_ascii=not value.isprintable())


def flow(mapping: Mapping[str, Any]) -> str:
    """A mapping in one line; values are texts, mappings, or lists of texts."""
    parts = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            text = flow(value)
        elif isinstance(value, list | tuple):
            text = f"[{', '.join(json.dumps(item) for item in value)}]"
        else:
            text = scalar(value)
        parts.append(f"{key}: {text}")
    return "{" + ", ".join(parts) + "}"


def dataset_yaml(content: Content) -> str:
    """The dataset file as text."""
    found = content.found
    lines = ["# Written by hyperclip-new-dataset, to be edited. All keys: datasets/README.md"]
    lines += [f"# {_comment(line)}" for line in (*content.told, *found.notes)]
    lines += [f"name: {scalar(content.name)}", f"root: {scalar(content.root)}", "splits:"]
    lines += [f"  {split}: {flow(keys)}" for split, keys in content.splits.items()]
    if content.orientation:
        what = "what labels follow where EXIF turns images"
        lines.append(f"orientation: {content.orientation}  # {what}")
    lines += [] if found.named else [UNNAMED]
    lines.append("classes:")
    lines += [f"  - {_entry(name)}" for name in found.names]
    lines += _label_map_comment(content.format)
    lines.append("label_map:")
    lines += [_meaning(one.key, one.name, one.remark) for one in found.classes]
    return "\n".join(lines) + "\n"


def _label_map_comment(kind: str) -> list[str]:
    if kind not in RULES:
        return ["# value in the masks: class"]
    lines = [f"# {RULES[kind]}."]
    if kind != "colours":
        lines.append(
            "# Unlabelled pixels do not count. For evaluation alone, background: threshold"
        )
        lines.append("# makes them a class.")
    return lines


def _entry(name: str) -> str:
    """A class; one with a comma as a list, since commas separate synonyms."""
    return f"[{json.dumps(name, ensure_ascii=False)}]" if "," in name else scalar(name)


def _meaning(key: Key, name: str, remark: str) -> str:
    comment = f"  # {_comment(remark)}" if remark else ""
    return f"  {scalar(key)}: {scalar(name)}{comment}"


def _comment(text: str) -> str:
    """A text in one line without what YAML may not hold."""
    return "".join(c if c.isprintable() else " " for c in text)
