"""Class files with mistakes in them."""

from __future__ import annotations

import json

import pytest
from hyperclip.vocabulary import Vocabulary

FILE = {"name": "x", "version": "1", "classes": [["dog"], ["road", "street"]]}


@pytest.mark.parametrize("kind", ["negatives", "background"])
@pytest.mark.parametrize("value", ["wall", {"wall": 1}, 7, ["wall", 7], None, [["wall"]], True])
def test_words_have_to_be_a_list_of_names(tmp_path, kind, value):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(FILE | {kind: value}))
    with pytest.raises(ValueError, match=f"a.json': {kind}: got .*, expected a list of names"):
        Vocabulary.from_json(path)
    path.write_text(json.dumps(FILE | {kind: ["wall", "sky"]}), encoding="utf-8-sig")
    assert getattr(Vocabulary.from_json(path), kind) == ("wall", "sky")


def test_unknown_keys_are_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(FILE | {"negative": ["wall"], "comment": ""}))
    with pytest.raises(
        ValueError, match=r"unknown keys \['comment', 'negative'\], expected of .*'negatives'"
    ):
        Vocabulary.from_json(path)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "x", "version": "1", "classes": [["a"]], "classes": [["b"]]}',
        '{"classes": [["a"]], "name": "x", "version": "1", "version": "2"}',
    ],
)
def test_a_key_twice(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="the key '(classes|version)' is there twice"):
        Vocabulary.from_json(path)


@pytest.mark.parametrize(
    "vocabulary",
    [
        Vocabulary((("chien", "hündin"), ('a "b", c',)), "mine", "2", ("sky",), ("wall, high",)),
        Vocabulary((("dog",),)),
        Vocabulary.from_text("dog, puppy; road"),
    ],
)
def test_what_is_written_is_read_as_the_same(tmp_path, vocabulary):
    vocabulary.to_json(tmp_path / "ü.json")
    again = Vocabulary.from_json(tmp_path / "ü.json")
    assert again == vocabulary and again.typed == vocabulary.typed
    assert vocabulary.name in (tmp_path / "ü.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_whether_names_were_typed_is_true_or_false(tmp_path, value):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(FILE | {"typed": value}))
    with pytest.raises(ValueError, match="typed: got .*, expected true or false"):
        Vocabulary.from_json(path)
