"""Datasets of your own: one YAML file with folders, classes and what the label values mean.

    name: streets
    splits:
      train: {images: train/photos, labels: train/masks}
      val: {images: photos, labels: masks, list: val.txt}
    classes: [road, [car, automobile], sky]

registers ``streets_train`` and ``streets_val``, for training and testing like any other. All keys:
datasets/README.md.
"""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..labels import IGNORE
from ..runtime.files import local_path, user_path
from ..runtime.yaml_files import load_yaml
from ..vocabulary import Vocabulary, load_vocabulary
from ..vocabulary.names import split_entries
from .annotations.formats import FORMATS, KEY_WORDS
from .annotations.source import AnnotationSource, IndexSource, Key
from .detectron2_catalog import register, unregister
from .image_files import ORIENTATIONS
from .label_maps import LABEL_MAPS, LARGEST, LabelMap
from .layouts import Layout
from .records import READING_KEYS
from .registry import BACKGROUND_RULES, DATASETS, DatasetSpec


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\w[\w.-]*", value) is not None


def _is_value(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value]


Rules = Mapping[str, tuple[Callable[[Any], bool], str, str]]
"""By key: a check of its value, what passes it in words, and an example."""

VALUES = f"label values (whole numbers from 0 on, {LARGEST} at most, without quotes)"
NAME = "a name of letters, digits, '_', '-' and '.', as file names have it"
KEYS: Rules = {
    "name": (_is_name, NAME, '"streets"'),
    "root": (_is_text, "a folder", '"../data"'),
    "splits": (lambda v: isinstance(v, Mapping) and all(map(_is_name, v)), f"{NAME}, and folders, for each split",
               '{"val": {images: photos, labels: masks}}'),
    "classes": (lambda v: isinstance(v, list | str), "a list of names, a JSON or .txt file of them, or a built-in list",
                "[road, [car, automobile]]"),
    "version": (lambda v: isinstance(v, str | int | float), "a string", '"1"'),
    "label_map": (lambda v: isinstance(v, Mapping | str), "values with classes, or a built-in map", "{1: road, 0: ignore}"),
    "ignore": (lambda v: all(map(_is_value, _listed(v))), f"label values, whole numbers from 0 on, {LARGEST} at most",
               "[0, 255]"),
    "background": (lambda v: v in BACKGROUND_RULES, f"one of {list(BACKGROUND_RULES)}", "none"),
    "background_words": (lambda v: isinstance(v, list) and all(map(_is_text, v)), "a list of names", "[tree, wall]"),
    "orientation": (lambda v: v in ORIENTATIONS, f"one of {list(ORIENTATIONS)}", "stored"),
    "image_bits": (lambda v: type(v) is int and 1 <= v <= 16, "the significant bits of 16-bit images, 1 to 16", "12"),
    "max_pixels": (lambda v: type(v) is int and v > 0, "the pixels of the largest image, a whole number above 0", "500000000"),
}  # fmt: skip
AFFIX = (lambda v: isinstance(v, list) and [*map(type, v)] == [str, str], "two strings", '["", "_mask"]')  # fmt: skip
SPLIT_KEYS: Rules = {
    "images": (_is_text, "a folder", '"photos"'),
    "labels": (
        lambda v: isinstance(v, Mapping) or _is_text(v),
        "a folder of masks, or the format and place of annotations",
        "{format: coco, file: instances.json}",
    ),
    "list": (_is_text, "a file with one file name a line", '"val.txt"'),
    "image_affix": AFFIX,
    "label_affix": AFFIX,
}

CROWDS = ("ignore", "class")
LABELS_KEYS: Rules = {
    "format": (lambda v: v in FORMATS, f"one of {list(FORMATS)}", "coco"),
    "folder": (_is_text, "a folder", '"labels"'),
    "file": (_is_text, "a JSON file", '"instances.json"'),
    "crowds": (
        lambda v: v in CROWDS,
        f"one of {list(CROWDS)}, what COCO's crowd regions are",
        "ignore",
    ),
}


def register_files(paths: Iterable[str | Path]) -> list[DatasetSpec]:
    """Register the datasets of YAML files; those of a file that was edited since are replaced.

    Raises as :func:`read_dataset_file`, and ValueError for a name that is taken.
    """
    specs = [spec for path in paths for spec in read_dataset_file(path)]
    files = {spec.file for spec in specs}
    for old in [spec for spec in DATASETS.values() if spec.file in files and spec not in specs]:
        unregister(old)
    for spec in specs:
        register(spec)
    return specs


def read_dataset_file(path: str | Path) -> list[DatasetSpec]:
    """The dataset of each split that a YAML file describes.

    Raises FileNotFoundError if it or its class file does not exist, and ValueError for what is no
    YAML in UTF-8, a key that is unknown, missing or of another type, or classes, background and
    label values that do not fit each other.
    """
    path = local_path(path)
    where = f"dataset file {str(path)!r}"
    content = load_yaml(path, "dataset file")
    _check_keys(content, KEYS, ("name", "splits", "classes"), where)
    vocabulary = _vocabulary(content, path, where)
    background, words = content.get("background", "none"), vocabulary.background
    if background != "none" and "background" in vocabulary.names:
        raise ValueError(
            f"{where}: classes: got one of the name 'background' with background: {background}, "
            "which adds it as the last class. Remove it from the classes"
        )
    if (background == "fold") != bool(words):
        raise ValueError(
            f"{where}: background: got {background!r} with background_words {list(words)}, expected "
            "words for 'fold', and for 'fold' alone. Add or remove them, or change background"
        )
    kind = _format_of(content["splits"], where)
    if kind:
        label_map, values = _annotated(content, vocabulary, background, kind, path.name, where)
    else:
        label_map, values = _label_map(content, vocabulary, background, path.name, where), {}
    root = (path.parent / user_path(content.get("root", "."))).resolve()
    reading = {key: content[key] for key in READING_KEYS if key in content}
    specs = []
    for split, keys in content["splits"].items():
        images = str(user_path(keys["images"]))
        source = _source(kind, keys["labels"], values) if kind else None
        labels = str(user_path(_place(kind, keys["labels"])))
        lists = (str((path.parent / user_path(keys["list"])).resolve()),) if "list" in keys else ()
        first, second = (tuple(keys.get(k, ("", ""))) for k in ("image_affix", "label_affix"))
        layout = Layout(images, labels, label_map, lists, False, first, second, source)
        name = f"{content['name']}_{split}"
        specs.append(DatasetSpec(name, name, (), background, (layout,), {"catseg": vocabulary}, f"see {path}", label_map.ignore,
                                 root=root, benchmark=False, file=path.resolve(), **reading))  # fmt: skip
    return specs


def _format_of(splits: Mapping, where: str) -> type[AnnotationSource] | None:
    """The format of the annotations of all splits; None for masks of indices. Checks their keys."""
    formats = set()
    for split, keys in splits.items():
        here = f"{where}, split {split!r}"
        _check_keys(keys, SPLIT_KEYS, ("images", "labels"), here)
        given = keys["labels"]
        if not isinstance(given, Mapping):
            formats.add("")
            continue
        _check_keys(given, LABELS_KEYS, ("format",), f"{here}, labels")
        kind, coco = FORMATS[given["format"]], ("crowds",) if "file" in given else ()
        _check_keys(
            given,
            {key: LABELS_KEYS[key] for key in ("format", *kind.paths, *coco)},
            kind.paths,
            f"{here}, labels of format {kind.format}",
        )
        formats.add(kind.format)
    if len(formats) > 1:
        got = sorted(name or "masks" for name in formats)
        raise ValueError(
            f"{where}: splits: got labels of the formats {got}, expected the same in all splits, "
            "since they share label_map. Describe the others in another file"
        )
    return FORMATS.get(formats.pop())


def _place(kind: type[AnnotationSource] | None, given: str | Mapping) -> str:
    """The folder of labels, or the file that holds them all."""
    if isinstance(given, str):
        return given
    return given["file" if kind and issubclass(kind, IndexSource) else "folder"]


def _source(
    kind: type[AnnotationSource], given: Mapping, values: Mapping[Key, int]
) -> AnnotationSource:
    """Annotations whose classes have these values; the next two are unlabelled pixels and crowds."""
    crowd = None if given.get("crowds") == "class" else len(values) + 1
    folder = str(user_path(given.get("folder", "")))
    return kind(values, len(values), crowd, folder)


def _check_keys(content: Any, rules: Rules, needed: tuple[str, ...], where: str) -> None:
    if not isinstance(content, Mapping):
        expected = f"expected a mapping with the keys {list(rules)}"
        raise ValueError(f"{where}: got {type(content).__name__}, {expected}")
    for key in content:
        if key not in rules:
            advice = f"Nearest: {difflib.get_close_matches(str(key), rules, n=1)}"
            raise ValueError(
                f"{where}: unknown key {key!r}, expected one of {list(rules)}. {advice}"
            )
    if missing := [key for key in needed if content.get(key) in (None, "", [], {})]:
        raise ValueError(f"{where}: keys {missing} are missing or empty")
    for key, value in content.items():
        passes, expected, example = rules[key]
        if not passes(value):
            how = f"Write for example {key}: {example}"
            raise ValueError(f"{where}: {key}: got {value!r}, expected {expected}. {how}")


def _vocabulary(content: Mapping, path: Path, where: str) -> Vocabulary:
    classes, words = content["classes"], tuple(content.get("background_words", ()))
    if isinstance(classes, str):
        loaded = load_vocabulary(classes, path.parent)
        return replace(loaded, background=words or loaded.background)
    synonyms = dict(enumerate(map(_listed, classes)))
    wrong = {k: classes[k] for k, s in synonyms.items() if not s or not all(map(_is_text, s))}
    if wrong:
        raise ValueError(
            f"{where}: classes: got {wrong} (by position, from 0), expected a name or a list of "
            "names for each. Put quotes around names that YAML takes for something else, such as "
            "no, on, null and 7"
        )
    names = split_entries(classes, where)
    often = Counter(synonyms[0] for synonyms in names)
    if twice := sorted(name for name in often if often[name] > 1):
        how = "Remove one of each, or put another synonym first"
        raise ValueError(f"{where}: classes: {twice} are there twice. {how}")
    return Vocabulary(names, content["name"], str(content.get("version", "")), background=words)


def _labels(vocabulary: Vocabulary, background: str) -> tuple[list[str], int]:
    """The names of the labels, and the label of ignored pixels, which no name has."""
    names = vocabulary.names + (["background"] if background != "none" else [])
    return names, IGNORE if len(names) < IGNORE else LARGEST


def _label_map(
    content: Mapping, vocabulary: Vocabulary, background: str, name: str, where: str
) -> LabelMap:
    """The file's own label map, which gets this name, or the built-in one that it asks for."""
    given, ignored = content.get("label_map"), _listed(content.get("ignore", []))
    names, ignore = _labels(vocabulary, background)
    if isinstance(given, str):
        known = LABEL_MAPS.get(given)
        if known is None or {*known.classes.values()} - {known.ignore} != set(range(len(names))):
            expected = f"expected one for {len(names)} classes, of {sorted(LABEL_MAPS)}"
            raise ValueError(f"{where}: label_map {given!r}: {expected}")
        if "ignore" in content:
            problem = f"got {content['ignore']}, but label_map {given!r} has its own"
            raise ValueError(f"{where}: ignore: {problem}. Remove one")
        return known
    classes = {k: k for k in range(len(names))}
    if given is not None:
        classes = _by_name(given, vocabulary, names, ignore, where)
    both = {raw: names[classes[raw]] for raw in ignored if classes.get(raw, ignore) != ignore}
    if both:
        advice = "Remove them from one of the two"
        raise ValueError(f"{where}: ignore: values of {both} are also classes. {advice}")
    default = {} if "ignore" in content else {ignore: ignore}
    return LabelMap({**default, **dict.fromkeys(ignored, ignore), **classes}, ignore, name)


def _annotated(
    content: Mapping,
    vocabulary: Vocabulary,
    background: str,
    kind: type[AnnotationSource],
    name: str,
    where: str,
) -> tuple[LabelMap, dict[Key, int]]:
    """The label map of annotations, and the value that it has for each of their keys. Unlabelled
    pixels are the background if that is a class, else they do not count; nor do crowds.
    """
    given = content.get("label_map")
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{where}: label_map: got {given!r}, expected {KEY_WORDS[kind.format]}, each with the "
            f"name of a class or ignore. Labels of the format {kind.format} need it"
        )
    if "ignore" in content:
        problem = f"got {content['ignore']!r}, which is for masks of indices"
        raise ValueError(f"{where}: ignore: {problem}. Write ignore in label_map instead")
    if len(given) > LARGEST - 1:
        raise ValueError(f"{where}: label_map: got {len(given)} keys, at most {LARGEST - 1} fit")
    names, ignore = _labels(vocabulary, background)
    rule = kind.is_key, KEY_WORDS[kind.format]
    classes = _by_name(given, vocabulary, names, ignore, where, rule)
    values: dict[Key, int] = {key: value for value, key in enumerate(classes)}
    unlabelled = ignore if background == "none" else len(names) - 1
    meanings = dict(enumerate(classes.values())) | {
        len(values): unlabelled,
        len(values) + 1: ignore,
    }
    return LabelMap(meanings, ignore, name), values


def _by_name(
    given: Mapping,
    vocabulary: Vocabulary,
    names: list[str],
    ignore: int,
    where: str,
    rule: tuple[Callable[[Any], bool], str] = (_is_value, VALUES),
) -> dict[Any, int]:
    """Class index, or ``ignore``, of each label value, which a file gives a name; ``rule`` says what
    may be such a value, by a check and in words.
    """
    is_key, key_words = rule
    often = Counter(vocabulary.names)
    unclear = sorted(name for name in often if often[name] > 1 or name in ("ignore", "background"))
    if unclear:
        raise ValueError(
            f"{where}: label_map: got classes with the first names {unclear}, expected each once, "
            "and no class of the name 'ignore' or 'background', which mean something else here. "
            "Put another synonym first"
        )
    known = [*names, "ignore"]
    wrong = {raw: name for raw, name in given.items() if not is_key(raw) or name not in known}
    if wrong:
        raise ValueError(
            f"{where}: label_map: got {wrong}, expected {key_words}, each with one of the names "
            f"{known}. Correct these, or add the classes"
        )
    needed = set(names if rule[0] is _is_value else vocabulary.names)
    if unused := sorted(needed - set(given.values())):
        advice = "add them, or remove these classes"
        raise ValueError(f"{where}: label_map: no label value means {unused}; {advice}")
    index = {name: k for k, name in enumerate(names)} | {"ignore": ignore}
    return {raw: index[name] for raw, name in given.items()}
