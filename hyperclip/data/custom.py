"""Datasets of your own: one YAML file with folders, classes and what the label values mean.

    name: streets
    splits:
      train: {images: train/photos, labels: train/masks}
      val: {images: photos, labels: masks, list: val.txt}
    classes: [road, [car, automobile], sky]

registers ``streets_train`` and ``streets_val``, for training and testing like any other. All keys: datasets/README.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..vocabulary import Vocabulary
from .catalog import register
from .labels import IGNORE, LABEL_MAPS, LabelMap
from .layouts import Layout
from .registry import BACKGROUND_RULES, DATASETS, DatasetSpec

KEYS = ("name", "root", "splits", "classes", "version", "label_map", "ignore", "background", "background_words")
SPLIT_KEYS = ("images", "labels", "list", "image_affix", "label_affix")


def register_files(paths: Iterable[str | Path]) -> list[DatasetSpec]:
    """Register the datasets of several YAML files; doing it again changes nothing. See :func:`read_dataset_file`."""
    specs = [spec for path in paths for spec in read_dataset_file(path)]
    for spec in specs:
        if DATASETS.get(spec.name) != spec:
            register(spec)
    return specs


def read_dataset_file(path: str | Path) -> list[DatasetSpec]:
    """The dataset of each split that a YAML file describes. Its label map is added to ``LABEL_MAPS``.

    Raises:
        FileNotFoundError: no such file, or no such class file.
        ValueError: an unknown or missing key, a class without a label value, a label value of an unknown class, …
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"dataset file: got {str(path)!r}, which does not exist")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"dataset file {str(path)!r} is not valid YAML: {error}") from error
    where = f"dataset file {str(path)!r}"
    _check_keys(content, KEYS, ("name", "splits", "classes"), where)
    vocabulary = _vocabulary(content, path, where)
    background = content.get("background", "none")
    if background not in BACKGROUND_RULES or (background == "fold") != bool(vocabulary.background):
        raise ValueError(
            f"{where}: background: got {background!r} with background_words {list(vocabulary.background)}, expected one of "
            f"{list(BACKGROUND_RULES)}, and words for 'fold' alone"
        )
    labels = _label_map(content, vocabulary, background, where)
    if isinstance(labels, LabelMap):
        LABEL_MAPS[f"file:{path.resolve()}"], labels = labels, f"file:{path.resolve()}"
    root = (path.parent / content.get("root", ".")).resolve()
    specs = []
    for split, keys in content["splits"].items():
        _check_keys(keys, SPLIT_KEYS, ("images", "labels"), f"{where}, split {split!r}")
        image_affix, label_affix = (tuple(keys.get(k, ("", ""))) for k in ("image_affix", "label_affix"))
        lists = (str((path.parent / keys["list"]).resolve()),) if "list" in keys else ()
        layout = Layout(keys["images"], keys["labels"], labels, lists, image_affix=image_affix, label_affix=label_affix)
        name = f"{content['name']}_{split}"
        vocabularies, ignore = {"catseg": vocabulary}, LABEL_MAPS[labels].ignore
        specs.append(DatasetSpec(name, name, (), background, (layout,), vocabularies, f"see {path}", ignore, root=root,
                                 benchmark=False))  # fmt: skip
    return specs


def _check_keys(content: Any, known: tuple[str, ...], needed: tuple[str, ...], where: str) -> None:
    if not isinstance(content, Mapping):
        raise ValueError(f"{where}: got {type(content).__name__}, expected a mapping with the keys {list(known)}")
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise ValueError(f"{where}: unknown key {key!r}, expected one of {list(known)}. Nearest: {near}")
    missing = [key for key in needed if not content.get(key)]
    if missing:
        raise ValueError(f"{where}: keys {missing} are missing or empty")


def _vocabulary(content: Mapping, path: Path, where: str) -> Vocabulary:
    classes, words = content["classes"], tuple(map(str, content.get("background_words", ())))
    if isinstance(classes, str):
        loaded = Vocabulary.from_json(path.parent / classes)
        return Vocabulary(loaded.classes, loaded.name, loaded.version, loaded.negatives, words or loaded.background)
    if not isinstance(classes, list):
        raise ValueError(f"{where}: classes: got {type(classes).__name__}, expected a list of names, or a JSON file of them")
    names = tuple(tuple(map(str, c)) if isinstance(c, list) else (str(c),) for c in classes)
    first = [synonyms[0] for synonyms in names if synonyms]
    twice = sorted({name for name in first if first.count(name) > 1})
    if twice:
        raise ValueError(f"{where}: classes: {twice} are there twice")
    return Vocabulary(names, str(content["name"]), str(content.get("version", "")), background=words)


def _label_map(content: Mapping, vocabulary: Vocabulary, background: str, where: str) -> str | LabelMap:
    """The file's label map, or the name of the built-in one that it asks for."""
    given, count = content.get("label_map"), len(vocabulary) + (background != "none")
    ignore = IGNORE if count < IGNORE else 65535
    if isinstance(given, str):
        known = LABEL_MAPS.get(given)
        if known is None or {*known.classes.values()} - {known.ignore} != set(range(count)):
            raise ValueError(f"{where}: label_map {given!r}: expected one for {count} classes, of {sorted(LABEL_MAPS)}")
        return given
    index = {name: k for k, name in enumerate(vocabulary.names)} | {"ignore": ignore}
    if background != "none":
        index["background"] = count - 1
    named = dict(enumerate([*vocabulary.names, "background"][:count])) if given is None else dict(given)
    unknown = {raw: name for raw, name in named.items() if name not in index or not isinstance(raw, int) or raw < 0}
    unused = sorted(set(index) - {"ignore"} - set(named.values()))
    if unknown or unused:
        raise ValueError(
            f"{where}: label_map: "
            + (f"{unknown} are no classes; expected value: name, with a name of {list(index)}" if unknown else
               f"no label value means {unused}; add them, or remove these classes")
        )  # fmt: skip
    ignored = content.get("ignore", [ignore])
    values = {int(v): ignore for v in (ignored if isinstance(ignored, list) else [ignored])}
    both = [raw for raw in values if raw in named and named[raw] != "ignore"]
    if both:
        raise ValueError(f"{where}: ignore: values {both} are also classes ({[named[raw] for raw in both]})")
    return LabelMap({**values, **{raw: index[label] for raw, label in named.items()}}, ignore)
