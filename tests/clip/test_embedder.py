"""The text cache: nothing that a result depends on changes without a new one, and nothing else
does.
"""

from __future__ import annotations

import contextlib

import pytest
import torch
from hyperclip.adapters import AdapterOptions, merge, prepare_finetuning
from hyperclip.clip import TextEmbedder, load_clip, text_cache_key
from hyperclip.clip.text_cache_key import text_state
from hyperclip.vocabulary import Vocabulary, prompt_templates
from torch import nn

from tests.helpers.defaults import default

TINY = "configs/quickstart/tiny_clip"
WORDS = Vocabulary.from_names(["star, sun", "cross"])


@pytest.fixture
def clip():
    return load_clip(TINY)


@pytest.fixture
def adapted(clip):
    prepare_finetuning(clip.model, "hyperbolic", options=default(AdapterOptions, block_size=32))
    return clip


@pytest.fixture
def embed(clip):
    return TextEmbedder(clip.tokenizer, prompt_templates("single"), "first")


def fresh(clip, words=WORDS):
    return TextEmbedder(clip.tokenizer, prompt_templates("single"), "first")(clip.model, words)


def in_place(p):
    p.add_(0.1)


def through_data(p):
    p.data.add_(0.1)


def through_detach(p):
    p.detach().add_(0.1)


def in_inference_mode(p):
    with torch.inference_mode():
        p.add_(0.1)


def through_numpy(p):
    p.detach().numpy()[...] += 0.1


def other_data(p):
    p.data = p.data + 0.1


def negated(p):
    p.data.neg_()


def flipped(p):
    p.data.copy_(p.data.flip(-1))


def rolled(p):
    p.data.copy_(p.data.roll(2, 0))


def one_bit(p):
    p.data.view(-1)[-1] = torch.nextafter(p.data.view(-1)[-1], torch.tensor(9.0))


def fused_step(p, optimizer=torch.optim.AdamW):
    with torch.enable_grad():
        p.requires_grad_()
        p.grad = torch.ones_like(p)
        optimizer([p], lr=0.1, fused=True).step()
        p.requires_grad_(False)


def fused_sgd(p):
    fused_step(p, torch.optim.SGD)


CHANGES = [
    in_place,
    through_data,
    through_detach,
    in_inference_mode,
    through_numpy,
    other_data,
    negated,
    flipped,
    rolled,
    one_bit,
    fused_step,
    fused_sgd,
]


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
def test_no_way_of_changing_a_weight_leaves_an_old_result(clip, embed, change):
    clip.model.requires_grad_(False)
    first = embed(clip.model, WORDS)
    assert embed(clip.model, WORDS) is first
    block = clip.model.transformer.resblocks[1]
    change(block.mlp.c_fc.weight)
    second = embed(clip.model, WORDS)
    assert second is not first and torch.equal(second, fresh(clip))
    assert change is one_bit or not torch.equal(second, first)
    assert embed(clip.model, WORDS) is second


@torch.no_grad()
def test_every_part_of_the_tower_counts(adapted, embed):
    """Each parameter and buffer, rows of unused tokens and the image tower apart."""
    clip = adapted.model
    used = clip.token_embedding.weight.data[adapted.tokenizer(["star"])[0, 1]]
    for name, value in [*clip.named_parameters(), *clip.named_buffers()]:
        before = embed(clip, WORDS)
        element = value.data.view(-1)[:1] if name != "token_embedding.weight" else used
        element += 0.5
        counts = not name.startswith("visual.")
        assert (embed(clip, WORDS) is not before) == counts, name
        element -= 0.5
    before = embed(clip, WORDS)
    clip.token_embedding.weight.data[adapted.tokenizer(["zebra"])[0, 1]] += 1
    assert embed(clip, WORDS) is before


@torch.no_grad()
def test_the_settings_of_modules_count(adapted, embed):
    clip, adapter = (
        adapted.model,
        adapted.model.transformer.resblocks[0].attn.parametrizations.in_proj_weight[0],
    )
    for module, key, value in (
        (adapter, "curvature", 4.0),
        (adapter, "literal", True),
        (clip.ln_final, "eps", 0.1),
    ):
        before = embed(clip, WORDS)
        setattr(module, key, value)
        after = embed(clip, WORDS)
        assert after is not before and torch.equal(after, fresh(adapted)), key
    before = embed(clip, WORDS)
    clip.transformer.resblocks[0].mlp.gelu = nn.ReLU()
    assert (embed(clip, WORDS) - before).abs().max() > 1e-4
    before = embed(clip, WORDS)
    merge(clip)
    assert embed(clip, WORDS) is not before


@torch.no_grad()
def test_the_prompts_count(clip, embed):
    first = embed(clip.model, WORDS)
    embed.templates = prompt_templates("imagenet_select")
    other = embed(clip.model, WORDS)
    assert (other - first).abs().max() > 1e-3
    embed.synonyms = "mean"
    assert (embed(clip.model, WORDS) - other).abs().max() > 1e-3
    typed = Vocabulary.from_text("star, sun; cross")
    assert typed == WORDS
    embed.templates, embed.synonyms, embed.typed = prompt_templates("single"), "first", "mean"
    assert (
        embed(clip.model, WORDS) is first and (embed(clip.model, typed) - first).abs().max() > 1e-3
    )
    embed.tokenizer = lambda texts, context_length: clip.tokenizer(
        [f"{text}!" for text in texts], context_length
    )
    assert (embed(clip.model, WORDS) - first).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("first", ["none", "bfloat16", "float16"])
def test_autocast_counts(clip, embed, first):
    """What one precision made never serves another, in either order."""
    ways = {
        "none": contextlib.nullcontext(),
        "bfloat16": torch.autocast("cpu", torch.bfloat16),
        "float16": torch.autocast("cpu", torch.float16),
        "off": torch.autocast("cpu", torch.bfloat16, enabled=False),
    }
    for name in (first, *ways):
        with ways[name]:
            got, want = embed(clip.model, WORDS), fresh(clip)
        assert got.dtype == want.dtype and torch.equal(got, want), name
    assert len(embed._embeddings) == 3


@torch.no_grad()
def test_the_precision_of_products_counts(clip, embed):
    before = torch.get_float32_matmul_precision()
    found = []
    try:
        for precision in ("highest", "high", "medium", "highest"):
            torch.set_float32_matmul_precision(precision)
            found.append(embed(clip.model, WORDS))
    finally:
        torch.set_float32_matmul_precision(before)
    assert found[0] is found[3] and len({id(x) for x in found}) == 3


def test_frozen_text_in_bfloat16_training_and_float32_evaluation(clip, embed):
    """The same names in both, as when a run is evaluated on its own training set."""
    clip.model.requires_grad_(False)
    layer = nn.Linear(clip.model.text_projection.shape[1], 3)
    with torch.autocast("cpu", torch.bfloat16):
        layer(embed(clip.model, WORDS)).sum().backward()
    with torch.no_grad():
        assert layer(embed(clip.model, WORDS)).dtype == torch.float32


def test_nothing_made_in_inference_mode_reaches_training(adapted, embed):
    """Neither embeddings of frozen text nor tokens of trained text."""
    layer = nn.Linear(adapted.model.text_projection.shape[1], 3)
    for frozen in (True, False):
        adapted.model.requires_grad_(not frozen)
        with torch.inference_mode():
            kept = embed(adapted.model, WORDS)
            embed(adapted.model, WORDS, torch.tensor([1]))
        assert not kept.is_inference()
        for only in (None, torch.tensor([1])):
            layer(embed(adapted.model, WORDS, only)).sum().backward()
    assert adapted.model.token_embedding.weight.grad is not None


@torch.no_grad()
def test_a_model_that_was_made_in_inference_mode():
    with torch.inference_mode():
        clip = load_clip(TINY)
    embed = TextEmbedder(clip.tokenizer, prompt_templates("single"), "first")
    first = embed(clip.model, WORDS)
    with torch.inference_mode():
        clip.model.text_projection.mul_(-1)
    torch.testing.assert_close(embed(clip.model, WORDS), -first)


@torch.no_grad()
def test_the_oldest_vocabulary_is_dropped(clip):
    embed = TextEmbedder(clip.tokenizer, prompt_templates("single"), "first", capacity=2)
    words = [Vocabulary.from_names([name]) for name in ("star", "cross", "circle")]
    kept = [embed(clip.model, vocabulary) for vocabulary in words]
    assert [
        embed(clip.model, vocabulary) is old
        for vocabulary, old in zip(words[1:], kept[1:], strict=True)
    ] == [True, True]
    assert len(embed._embeddings) == len(embed._tokens) == 2
    again = embed(clip.model, words[0])
    assert again is not kept[0] and torch.equal(again, kept[0])
    assert embed(clip.model, words[2]) is kept[2] and embed(clip.model, words[1]) is not kept[1]


@torch.no_grad()
def test_going_back_to_old_weights_finds_the_old_result(clip, embed):
    """As an average of the weights does before and after every evaluation."""
    weight = clip.model.transformer.resblocks[0].attn.in_proj_weight
    old = weight.clone()
    first = embed(clip.model, WORDS)
    weight.mul_(1.1)
    assert embed(clip.model, WORDS) is not first
    weight.copy_(old)
    assert embed(clip.model, WORDS) is first


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_of_weights(clip, dtype):
    clip.model.to(dtype)
    tokens = torch.arange(5)
    before = text_state(clip.model, tokens)
    assert text_state(clip.model, tokens) == before
    value = clip.model.transformer.resblocks[0].mlp.c_proj.weight.data
    value[3, 5] += 0.01 * value[3, 5].abs() + 0.01
    assert text_state(clip.model, tokens) != before


def test_joined_tensors_hold_every_number():
    """As the sums are taken of them on a GPU, in fewer steps."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5, 4), (4,), (), (2, 3, 4), (7, 2)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    joined = text_cache_key._joined([*tensors, tensors[0].double()])
    assert sorted(len(rows) for rows in joined) == [1, 3, 7, 15]
    numbers = torch.cat([rows.double().flatten() for rows in joined]).sort().values
    assert torch.equal(
        numbers, torch.cat([x.double().flatten() for x in [*tensors, tensors[0]]]).sort().values
    )
