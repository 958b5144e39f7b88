"""The class lists of the benchmarks: the released names, and cleaned ones in the same order."""

from __future__ import annotations

import json

import pytest
from hyperclip.vocabulary import builtin
from hyperclip.vocabulary.vocabulary import LISTS

RELEASED = {
    "ade150": 150,
    "ade847": 847,
    "context459": 459,
    "context59": 59,
    "voc20": 20,
    "voc20b": 20,
    "coco_stuff": 171,
}
SIZES = {**RELEASED, "coco_object": 80, "cityscapes": 19}


def background(name):
    return json.loads((LISTS / f"{name}.json").read_text(encoding="utf-8")).get("background", [])


def repeated(names):
    """Indices of the names that occur earlier in the list."""
    return [i for i, name in enumerate(names) if name in names[:i]]


def test_released_lists_are_those_of_the_published_implementation(golden):
    expected = {
        ", ".join(s.strip() for s in entry.split(", "))
        for entry in golden("h3_text.json")["all_names"]
    }
    got = {", ".join(synonyms) for name in RELEASED for synonyms in builtin(name).classes}
    assert got | set(background("voc20b")) == expected


def test_subsets_and_background():
    assert builtin("coco_object").classes == builtin("coco_stuff").classes[:80]
    assert builtin("clean_coco_object").classes == builtin("clean_coco_stuff").classes[:80]
    assert len(background("voc20b")) == len(background("clean_voc20b")) == 39
    for prefix in ("", "clean_"):
        voc = builtin(f"{prefix}voc20").classes
        assert builtin(f"{prefix}voc20b").classes == voc
        words = background(f"{prefix}voc20b")
        assert not repeated(words) and not set(words) & {s for synonyms in voc for s in synonyms}


@pytest.mark.parametrize("name", SIZES)
def test_clean_lists(name):
    clean = builtin(f"clean_{name}")
    assert len(clean) == len(builtin(name)) == SIZES[name]
    assert clean.version
    words = [s for synonyms in clean.classes for s in synonyms]
    assert not [words[i] for i in repeated(words)]
    assert all(s and s == s.strip() and ", " not in s for s in words + background(f"clean_{name}"))
    assert max(map(len, clean.classes)) <= 5


def test_ten_released_classes_can_never_win():
    names = builtin("ade847").names
    lost = repeated(names)
    assert lost == [153, 188, 191, 252, 255, 280, 371, 412, 663, 768]
    assert {names[i] for i in lost} == {
        "bag",
        "pot",
        "basket",
        "screen",
        "pier",
        "control panel",
        "pipe",
        "grill",
        "patio",
    }
    assert not repeated(builtin("clean_ade847").names)


@pytest.mark.parametrize(
    ("name", "index", "first"),
    [
        ("voc20", 15, "potted plant"),
        ("context59", 50, "railroad track"),
        ("context459", 62, "cassette recorder"),
        ("context459", 208, "hot-air balloon"),
        ("context459", 430, "unknown"),
        ("ade150", 138, "trash can"),
        ("ade847", 191, "suitcase"),
        ("ade847", 252, "handbag"),
        ("ade847", 147, "crt screen"),
        ("ade847", 846, "adding machine"),
        ("coco_stuff", 106, "wooden floor"),
        ("coco_stuff", 161, "wall"),
        ("cityscapes", 11, "person"),
    ],
)
def test_cleaned_names_keep_their_places(name, index, first):
    assert builtin(f"clean_{name}").names[index] == first
