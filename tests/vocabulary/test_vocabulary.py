"""Vocabularies, templates and the text cache."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from hyperclip.adapters import AdapterOptions, prepare_finetuning
from hyperclip.clip import TextEmbedder, encode_text, load_clip, tokenize
from hyperclip.vocabulary import Vocabulary, builtin, prompt_templates
from hyperclip.vocabulary.vocabulary import LISTS

from tests.helpers.defaults import default

TINY = "configs/quickstart/tiny_clip"


@pytest.fixture
def clip():
    return load_clip(TINY)


def test_text_and_names():
    assert Vocabulary.from_text(" dog, puppy ;road; ").classes == (("dog", "puppy"), ("road",))
    assert Vocabulary.from_names(["building, edifice", "bed "]).names == ["building", "bed "]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" ; ", "got no class"),
        ("dog; cat; dog", "classes 0 and 2 are both 'dog'"),
        ("dog; ,", "class 1 has an empty name"),
    ],
)
def test_bad_vocabularies(text, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_text(text)


def test_json_forms(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(["dog, puppy", "road"]))
    assert Vocabulary.from_json(path) == Vocabulary((("dog", "puppy"), ("road",)), "mine")
    path.write_text(json.dumps({"name": "x", "version": "2", "classes": [["dog"], ["road"]]}))
    assert Vocabulary.from_json(path).version == "2"
    for wrong in ({"classes": 3}, {"name": "x", "version": "1", "classes": ["dog", "cat"]}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="expected a list of names"):
            Vocabulary.from_json(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        Vocabulary.from_json(path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Vocabulary.from_json(tmp_path / "none.json")


def test_every_shipped_list_loads():
    sizes = {path.stem: len(builtin(path.stem)) for path in LISTS.glob("*.json")}
    assert sizes["coco_stuff"] == 171


def test_template_kinds():
    counts = {
        kind: len(prompt_templates(kind)) for kind in ("single", "imagenet_select", "imagenet")
    }
    assert counts == {"single": 1, "imagenet_select": 8, "imagenet": 80}
    assert all(t.count("{}") == 1 for t in prompt_templates("imagenet"))
    with pytest.raises(ValueError, match="got 'vild', expected one of"):
        prompt_templates("vild")


@torch.no_grad()
@pytest.mark.parametrize("kind", ["single", "imagenet_select", "imagenet"])
@pytest.mark.parametrize("synonyms", ["first", "mean"])
def test_ensembles_are_means_of_unit_embeddings(clip, kind, synonyms):
    vocabulary = Vocabulary.from_text("star, red star; cross; blue plain circle, disc, round thing")
    got = TextEmbedder(clip.tokenizer, prompt_templates(kind), synonyms)(clip.model, vocabulary)
    for row, names in zip(got, vocabulary.classes, strict=True):
        names = names if synonyms == "mean" else names[:1]
        prompts = [t.format(n) for n in names for t in prompt_templates(kind)]
        units = F.normalize(encode_text(clip.model, tokenize(clip.tokenizer, prompts, 32)), dim=-1)
        torch.testing.assert_close(row, F.normalize(units.mean(0), dim=0), atol=1e-5, rtol=1e-5)


def test_cache_is_never_stale(clip):
    embed = TextEmbedder(clip.tokenizer, prompt_templates("single"), "first")
    prepare_finetuning(clip.model, "hyperbolic", options=default(AdapterOptions, block_size=32))
    vocabulary = Vocabulary.from_text("star; cross")
    with torch.no_grad():
        first = embed(clip.model, vocabulary)
        assert embed(clip.model, vocabulary) is first
        parameter = next(p for p in clip.model.transformer.parameters() if p.requires_grad)
        parameter.add_(0.1)  # what an optimiser step does
        assert not torch.equal(embed(clip.model, vocabulary), first)
        assert embed(clip.model, Vocabulary.from_text("star; circle")).shape == first.shape
    assert embed(clip.model, vocabulary).requires_grad


def test_a_subset_of_the_classes(clip):
    embed = TextEmbedder(clip.tokenizer, prompt_templates("imagenet_select"), "mean")
    prepare_finetuning(clip.model, "hyperbolic", options=default(AdapterOptions, block_size=32))
    vocabulary, only = (
        Vocabulary.from_text("star, sun; cross; circle; square, box"),
        torch.tensor([0, 3]),
    )
    trained = embed(clip.model, vocabulary, only)
    with torch.no_grad():
        torch.testing.assert_close(trained, embed(clip.model, vocabulary)[only])
        torch.testing.assert_close(trained, embed(clip.model, vocabulary, only))


def test_a_name_longer_than_the_context_is_an_error(clip):
    embed = TextEmbedder(clip.tokenizer, prompt_templates("single"), "first")
    with pytest.raises(ValueError, match="longer than the text context of 32 tokens"):
        embed(clip.model, Vocabulary.from_text("word " * 40))
