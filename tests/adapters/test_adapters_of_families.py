"""Adapters on the attention of every family: identity, merged, counted, only what is chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hyperclip.adapters import (
    AdapterOptions,
    adapters,
    attentions,
    merge,
    parameter_table,
    prepare_finetuning,
)
from hyperclip.clip import encode_dense, encode_text, load_clip, tokenize
from hyperclip.clip.image_tower import image_tower

from tests.helpers.defaults import default
from tests.helpers.model_folders import random_images, write_folder

FAMILIES = ["vit-mean", "vit-cls", "vit-siglip", "eva-custom", "siglip-custom", "resnet-mean"]
MODES = ["hyperbolic", "attention", "relations", "rotation", "lora", "attention+lora"]
SMALL = default(AdapterOptions, block_size=16, curvature_text=0.01, rank=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, written = tmp_path_factory.mktemp("adapted"), {}

    def get(family):
        if family not in written:
            written[family] = write_folder(root / family, *family.split("-"))
        return written[family]

    return get


def outputs(loaded):
    images = random_images(image_tower(loaded.model.visual))
    tokens = tokenize(loaded.tokenizer, ["a photo", "a dog"], 16)
    return encode_dense(loaded.model.visual, images).embeddings, encode_text(loaded.model, tokens)


def close(ours, theirs, tolerance=1e-4):
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_identity_at_first_then_merged_like_unmerged(folder, family, mode):
    loaded = load_clip(folder(family))
    model, names = loaded.model, set(loaded.model.state_dict())
    with torch.no_grad():
        plain = outputs(loaded)
    prepare_finetuning(model, mode, options=SMALL)
    assert all(any(part in name for name, _ in adapters(model)) for part in ("visual.", "text."))
    with torch.no_grad():
        close(outputs(loaded), plain)
        for _, adapter in adapters(model):
            for p in adapter.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
        moved = outputs(loaded)
    for ours, theirs in zip(moved, plain, strict=True):
        assert (ours - theirs).abs().max() > 1e-3 * theirs.abs().max()
    inside = {id(p) for _, a in adapters(model) for p in a.parameters()}
    assert {id(p) for p in model.parameters() if p.requires_grad} == inside
    assert merge(model) > 0 and set(model.state_dict()) == names
    with torch.no_grad():
        close(outputs(loaded), moved)


@pytest.mark.parametrize("mode", MODES[:5])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_adapter_gets_a_gradient(folder, family, mode):
    """None is left without one, which processes that train together would wait for."""
    loaded = load_clip(folder(family))
    prepare_finetuning(loaded.model, mode, options=SMALL)
    sum(x.square().sum() for x in outputs(loaded)).backward()
    trained = {n: p for n, p in loaded.model.named_parameters() if p.requires_grad}
    assert trained and [n for n, p in trained.items() if p.grad is None] == []


@pytest.mark.parametrize("chosen", [("q",), ("v", "k"), ("q", "v")])
def test_only_the_chosen_projections_of_separate_layers(folder, chosen):
    model = load_clip(folder("vit-mean")).model
    options = replace(SMALL, encoders=["text"], projections=chosen)
    prepare_finetuning(model, "hyperbolic", options)
    owners = {name.split(".parametrizations.")[0].split(".")[-1] for name, _ in adapters(model)}
    wanted = {"q": "query", "k": "key", "v": "value"}
    assert owners == {wanted[name] for name in chosen}
    assert len(list(adapters(model))) == 2 * len(chosen)  # of two layers
    assert {n[:7] for n, p in model.named_parameters() if p.requires_grad} == {"text.tr"}


def test_matrices_of_each_family(folder):
    """Which weights hold what; of attention that only its values matter in, only those."""

    def held(family, encoder):
        found = attentions(load_clip(folder(family)).model, encoder)
        return [(w.layer, w.matrices) for w in found]

    fused, separate = [("q", "k", "v"), ("out",)], [("q",), ("k",), ("v",), ("out",)]
    assert held("vit-mean", "text") == [(i, m) for i in range(2) for m in separate]
    assert held("vit-siglip", "text") == [(i, m) for i in range(2) for m in fused]
    assert held("resnet-mean", "vision") == [(0, ("v",)), (0, ("out",))]
    assert held("siglip-custom", "vision")[-2:] == [(12, ("k", "v")), (12, ("out",))]
    assert held("siglip-custom", "vision")[:24] == [(i, m) for i in range(12) for m in fused]
    eva = held("eva-custom", "vision")
    assert {layer for layer, _ in eva} == set(range(12))


def test_the_table_counts_and_says_what_has_no_attention(folder):
    model = load_clip(folder("convnext-mean")).model
    prepare_finetuning(model, "lora", options=SMALL)
    whole = torch.nn.ModuleDict({"clip": model})
    rows = {part: (trainable, total) for part, trainable, total in parameter_table(whole)}
    # two layers of q, k and v, each with two factors of 32 x 2
    assert rows["CLIP text adapters"] == (2 * 3 * 2 * 32 * 2,) * 2
    assert rows["CLIP vision adapters (no attention)"] == (0, 0)
    assert rows["total"][0] == rows["CLIP text adapters"][0]


def test_towers_without_attention_cannot_be_adapted(folder):
    model = load_clip(folder("convnext-mean")).model
    with pytest.raises(ValueError, match=r"got 'lora', but of MODEL.ADAPTER.ENCODERS \['vision'\]"):
        prepare_finetuning(model, "lora", replace(SMALL, encoders=["vision"]))
    for mode in ("none", "full"):
        prepare_finetuning(model, mode, replace(SMALL, encoders=["vision"]))
        trainable = {n for n, p in model.named_parameters() if p.requires_grad}
        assert bool(trainable) == (mode == "full") and "logit_scale" not in trainable


def test_an_order_without_influence_is_refused_for_separate_layers_too(folder):
    model = load_clip(folder("vit-mean")).model
    with pytest.raises(ValueError, match=r"what 'lora' trains for \['q', 'v'\] would have no"):
        prepare_finetuning(model, "lora+attention", replace(SMALL, encoders=["text"]))


def test_relations_need_one_width(folder, monkeypatch):
    model = load_clip(folder("vit-mean")).model
    weight = model.text.transformer.encoder.layer[0].attention.self.query
    weight.weight = torch.nn.Parameter(torch.zeros(32, 16))
    with pytest.raises(ValueError, match=r"text tower has attention of the widths \[16, 32\]"):
        prepare_finetuning(model, "relations", replace(SMALL, encoders=["text"]))
