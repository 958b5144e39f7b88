"""Classes with descriptions and templates of their own: files, mistakes in them, embeddings."""

from __future__ import annotations

import json

import pytest
import torch
from hyperclip.clip import TextEmbedder, load_clip
from hyperclip.clip.text_tower import encode_text, tokenize
from hyperclip.vocabulary import Vocabulary
from hyperclip.vocabulary.prompts import Prompts, read_class

from reference import vocabulary as reference

TALL = "a tall red star above the ground"
CLASSES = [
    {"name": "star", "descriptions": [TALL, "a small dot"]},
    ["cross", "plus"],
    {"names": ["circle", "ring"], "templates": ["one {}.", "the {} here"], "descriptions": ["o"]},
    {"name": "square", "descriptions": ["a shape with four corners"], "templates": []},
]
TEMPLATES = ("a {}", "this is a {}")


def written(tmp_path, content):
    path = tmp_path / "words.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_written_is_read_as_the_same(tmp_path, whole):
    content = {"name": "x", "version": "1", "classes": CLASSES, "negatives": ["wall"]}
    words = Vocabulary.from_file(written(tmp_path, content if whole else CLASSES))
    assert words.classes == (("star",), ("cross", "plus"), ("circle", "ring"), ("square",))
    assert [own.descriptions for own in words.prompts] == [(TALL, "a small dot"), (), ("o",), (
        "a shape with four corners",
    )]  # fmt: skip
    assert [own.templates for own in words.prompts] == [None, None, ("one {}.", "the {} here"), ()]
    words.to_json(tmp_path / "again.json")
    assert Vocabulary.from_file(tmp_path / "again.json") == words
    assert words != Vocabulary(words.classes, words.name, words.version, words.negatives)


def test_files_without_prompts_stay_as_they_were(tmp_path):
    plain = Vocabulary((("star",), ("cross", "plus")), "x", "1")
    plain.to_json(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert content == {"name": "x", "version": "1", "classes": [["star"], ["cross", "plus"]]}
    assert Vocabulary.from_file(tmp_path / "a.json").prompts == ()


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"name": "a", "description": ["b"]}, r"class 1: got the unknown keys \['description'\]"),
        ({"descriptions": ["b"]}, 'expected either "name" or "names"'),
        ({"name": "a", "names": ["b"]}, 'expected either "name" or "names"'),
        ({"name": 7}, "name: got 7, expected a text"),
        ({"names": "a"}, "names: got 'a', expected a list of texts"),
        (
            {"name": "a", "descriptions": "b"},
            "descriptions: got 'b', expected a list of texts such",
        ),
        ({"name": "a", "descriptions": ["b", None]}, "descriptions: got .*, expected a list"),
        ({"name": "a", "descriptions": [" "]}, r"descriptions \[' '\]: one is empty"),
        ({"name": "a", "descriptions": ["b", "b"]}, "one is there twice"),
        ({"name": "a", "templates": ["photo"]}, "templates: got 'photo', expected a sentence with"),
        ({"name": "a", "templates": ["{} {}"]}, "templates: got '{} {}', expected"),
        ({"name": "a", "templates": ["{0} {}"]}, r"templates: got '\{0\} \{\}', expected"),
        ({"name": "a", "templates": []}, "nothing is left to ask"),
        ({"name": ""}, "class 1 has an empty name"),
    ],
)
def test_mistakes_are_named(tmp_path, entry, problem):
    with pytest.raises(ValueError, match=problem):
        Vocabulary.from_file(written(tmp_path, ["road", entry]))


@pytest.fixture(scope="module")
def loaded():
    return load_clip("configs/quickstart/tiny_clip")


@torch.no_grad()
@pytest.mark.parametrize("rule", ["first", "mean", "max"])
def test_embeddings_are_means_of_all_prompts(loaded, rule, tmp_path):
    words = Vocabulary.from_file(written(tmp_path, CLASSES))
    embed = TextEmbedder(loaded.tokenizer, TEMPLATES, rule)

    def alone(prompt):
        return encode_text(loaded.model, tokenize(loaded.tokenizer, [prompt], 77))[0]

    plus, ring = (["plus"], ["ring"]) if rule != "first" else ([], [])
    asked = [
        ["a star", "this is a star", TALL, "a small dot"],
        [t.format(n) for n in ["cross", *plus] for t in TEMPLATES],
        [
            *(
                f"{t} {n}{e}"
                for n in ["circle", *ring]
                for t, e in (("one", "."), ("the", " here"))
            ),
            "o",
        ],
        ["a shape with four corners"],
    ]
    if rule == "max":
        asked[1:3] = [asked[1][:2], asked[1][2:], [*asked[2][:2], "o"], asked[2][2:]]
    expected = torch.stack([reference.class_embedding(alone, prompts) for prompts in asked])
    torch.testing.assert_close(embed(loaded.model, words), expected, atol=1e-5, rtol=1e-5)
    plain = Vocabulary(words.classes)
    assert not torch.allclose(embed(loaded.model, plain)[0], expected[0], atol=1e-3)
    part = words.part([1, 3])
    assert part.prompts == (words.prompts[1], words.prompts[3])
    assert torch.equal(embed(loaded.model, part)[-1], embed(loaded.model, words)[-1])


def test_descriptions_that_are_too_long_are_refused_before_any_image(loaded):
    words = Vocabulary((("star",),), prompts=(Prompts(("very " * 90 + "long",)),))
    with pytest.raises(ValueError, match="very very"):
        TextEmbedder(loaded.tokenizer, TEMPLATES, "first").check(loaded.model, words)


def test_background_words_have_the_models_templates():
    words = Vocabulary((("star",),), background=("wall",), prompts=(Prompts(("a",)),))
    assert words.with_background_prompts().prompts == (Prompts(("a",)), Prompts())


def test_a_class_of_a_file():
    assert read_class({"name": "dog, puppy"}, "x") == (("dog", "puppy"), Prompts())
