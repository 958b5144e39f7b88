"""What the cache of text embeddings keeps, what makes it compute again, and what it must not mix
up.
"""

from __future__ import annotations

import pytest
import torch
from hyperclip.clip import TextEmbedder, load_clip
from hyperclip.clip import embedder as text_cache
from hyperclip.vocabulary import Vocabulary

WORDS = [
    Vocabulary.from_text(text)
    for text in ("star; cross", "star; circle", "square; cross", "ring; dot")
]


@pytest.fixture(scope="module")
def loaded():
    return load_clip("configs/quickstart/tiny_clip")


@pytest.fixture
def runs(monkeypatch):
    """How many prompts the text tower was run on, one entry for each time."""
    counted, original = [], text_cache.encode_text

    def counting(clip, tokens):
        counted.append(len(tokens))
        return original(clip, tokens)

    monkeypatch.setattr(text_cache, "encode_text", counting)
    return counted


def embedder(loaded, capacity=8, synonyms="first"):
    return TextEmbedder(loaded.tokenizer, ("a {}",), synonyms, capacity=capacity)


@torch.no_grad()
def test_the_vocabularies_that_were_not_asked_for_longest_give_way(loaded, runs):
    embed = embedder(loaded, capacity=2)
    for words in (WORDS[0], WORDS[1], WORDS[1], WORDS[0]):
        embed(loaded.model, words)
    assert len(runs) == 2  # both are kept
    embed(loaded.model, WORDS[2])
    for words in (WORDS[2], WORDS[0]):
        embed(loaded.model, words)
    assert len(runs) == 3  # the newest is kept, and so is the one that was asked before it
    embed(loaded.model, WORDS[1])
    assert len(runs) == 4  # the other one went


@torch.no_grad()
def test_every_weight_of_the_text_tower_counts(loaded):
    """Whatever changes a weight that the embedding depends on gives the embedding of the new
    weights.
    """
    model = load_clip("configs/quickstart/tiny_clip").model
    embed, before = embedder(loaded), None
    names = [
        n for n, _ in model.named_parameters() if not n.startswith("visual.") and n != "logit_scale"
    ]
    assert {
        "text_projection",
        "positional_embedding",
        "token_embedding.weight",
        "ln_final.weight",
    } <= set(names)
    for name in [n for n in names if ".resblocks." not in n or ".resblocks.0." in n]:
        before = embed(model, WORDS[0]).clone()
        model.get_parameter(name).mul_(1.5).add_(
            0.05 * torch.randn(model.get_parameter(name).shape)
        )
        after = embed(model, WORDS[0])
        torch.testing.assert_close(after, embedder(loaded)(model, WORDS[0]), msg=name)
        assert name.endswith("in_proj_bias") or (after - before).abs().max() > 1e-6, name


@torch.no_grad()
def test_weights_of_the_image_tower_do_not_count(loaded, runs):
    model = load_clip("configs/quickstart/tiny_clip").model
    embed = embedder(loaded)
    embed(model, WORDS[0])
    model.visual.proj.add_(0.1)
    embed(model, WORDS[0])
    assert len(runs) == 1


@torch.no_grad()
def test_models_and_vocabularies_have_entries_of_their_own(loaded):
    other = load_clip("configs/quickstart/tiny_clip").model
    other.text_projection.mul_(-1)
    embed = embedder(loaded)
    first, second = embed(loaded.model, WORDS[0]).clone(), embed(other, WORDS[0]).clone()
    torch.testing.assert_close(first, -second)
    torch.testing.assert_close(embed(loaded.model, WORDS[0]), first)
    swapped = Vocabulary(WORDS[0].classes[::-1])
    torch.testing.assert_close(embed(loaded.model, swapped), first.flip(0))


@torch.no_grad()
def test_unit_embeddings_in_the_order_of_the_classes(loaded):
    embed = embedder(loaded, synonyms="mean")
    words = Vocabulary.from_text("star, sun; cross; ring, circle, disc")
    whole = embed(loaded.model, words)
    assert whole.shape[0] == 3
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(3))
    for only in ([0], [2], [0, 2], [1, 2]):
        assert torch.equal(embed(loaded.model, words, torch.tensor(only)), whole[only])
    torch.testing.assert_close(embed(loaded.model, Vocabulary.from_text("cross"))[0], whole[1])


def test_a_training_tower_is_run_each_time_and_a_frozen_one_once(loaded, runs):
    model = load_clip("configs/quickstart/tiny_clip").model.requires_grad_(False)
    embed = embedder(loaded)
    assert not embed(model, WORDS[0]).requires_grad and not embed(model, WORDS[0]).requires_grad
    assert len(runs) == 1
    model.text_projection.requires_grad_(True)
    for _ in range(2):
        (gradient,) = torch.autograd.grad(embed(model, WORDS[0])[:, 0].sum(), model.text_projection)
        assert gradient.abs().sum() > 0
    assert len(runs) == 3


def test_prompts_and_their_owners(loaded):
    words = Vocabulary.from_text("star, sun; cross")
    templates = ("a {}", "the {}")
    expected = {
        "first": (["a star", "the star", "a cross", "the cross"], [0, 0, 1, 1], None),
        "mean": (
            ["a star", "the star", "a sun", "the sun", "a cross", "the cross"],
            [0, 0, 0, 0, 1, 1],
            None,
        ),
        "max": (
            ["a star", "the star", "a sun", "the sun", "a cross", "the cross"],
            [0, 0, 1, 1, 2, 2],
            [0, 0, 1],
        ),
    }
    for rule, (prompts, owners, classes) in expected.items():
        embed = TextEmbedder(loaded.tokenizer, templates, rule)
        assert embed.prompts(words) == (prompts, owners) and embed.class_of(words) == classes
    assert embed.class_of(WORDS[0]) is None  # one embedding for each class already


def test_the_best_synonym_is_for_evaluation_only(loaded):
    embed = embedder(loaded, synonyms="max")
    words = Vocabulary.from_text("star, sun; cross")
    with torch.no_grad():
        assert embed(loaded.model, words).shape[0] == 3
        with pytest.raises(
            ValueError, match="has 3 synonyms of 2 classes, which is for evaluation only"
        ):
            embed(loaded.model, words, torch.tensor([0]))
    with pytest.raises(ValueError, match="Train with 'first' or 'mean'"):
        embed(loaded.model, words)
    assert embed(loaded.model, WORDS[0]).shape[0] == 2
    with pytest.raises(ValueError, match=r"MODEL.SYNONYMS: got 'last', expected one of"):
        embedder(loaded, synonyms="last")
