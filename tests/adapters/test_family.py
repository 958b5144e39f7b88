"""Every adapter: the identity at the start, mergeable, counted, trained in full; and what each of them is."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import open_clip
import pytest
import torch
from detectron2.modeling import build_model
from hyperclip.adapters import (
    ADAPTER_REGISTRY,
    Adapter,
    AdapterOptions,
    LowRank,
    RadiusAdjustment,
    Rotation,
    SharedBlocks,
    Site,
    adapters,
    merge,
    parameter_table,
    prepare_finetuning,
)
from hyperclip.clip import encode_dense, load_clip
from hyperclip.clip.text import encode_text, tokenize
from hyperclip.config import load_config

TINY = "configs/quickstart/tiny_clip"
MODES = ["hyperbolic", "attention", "relations", "rotation", "lora", "hyperbolic+rotation", "lora+relations"]
SMALL = AdapterOptions(block_size=32, curvature_text=0.01, rank=4)


@pytest.fixture(scope="module")
def plain():
    return load_clip(TINY)


@pytest.fixture(scope="module")
def vit_b():
    return open_clip.create_model("ViT-B-16", pretrained=None)


def adapted(mode, options=SMALL):
    model = load_clip(TINY).model
    prepare_finetuning(model, mode, options=options)
    return model


def disturb(model, seed=0):
    """Move every adapter's parameters away from where they start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=generator))


def outputs(model, tokenizer):
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    tokens = tokenize(tokenizer, ["a blue dotted cross", "a red plain star"], 32)
    return encode_dense(model.visual, images).embeddings, encode_text(model, tokens)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_identity_at_the_start_and_merged_like_unmerged(plain, mode):
    model = adapted(mode)
    for ours, theirs in zip(outputs(model, plain.tokenizer), outputs(plain.model, plain.tokenizer), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
    disturb(model)
    before = outputs(model, plain.tokenizer)
    assert (before[0] - outputs(plain.model, plain.tokenizer)[0]).abs().max() > 1e-3
    blocks = len(model.visual.transformer.resblocks) + len(model.transformer.resblocks)
    assert merge(model) == blocks * (2 if "relations" in mode else 1)
    assert not list(adapters(model)) and set(model.state_dict()) == set(plain.model.state_dict())
    for ours, theirs in zip(outputs(model, plain.tokenizer), before, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_everything_that_trains_gets_a_gradient(plain, mode):
    model = adapted(mode)
    disturb(model)
    dense, text = outputs(model, plain.tokenizer)
    (dense.square().sum() + text[:, ::2].sum()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)]
    last = f"visual.transformer.resblocks.{len(model.visual.transformer.resblocks) - 1}."
    # The last block of the image tower gives values only, so that its q and k have no influence.
    assert [n for n in without if not (n.startswith(last) and n.rsplit(".", 1)[1][0] in "qk")] == []
    assert not any(p.grad is not None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize(
    ("mode", "options", "expected"),
    [
        ("hyperbolic", AdapterOptions(), 5_898_240),
        ("rotation", AdapterOptions(), 5_898_240),
        ("relations", AdapterOptions(), 7_892_352),
        ("attention", AdapterOptions(), 20_447_232),
        ("lora", AdapterOptions(rank=8), 12 * 3 * 2 * 8 * (512 + 768)),
        ("hyperbolic+lora", AdapterOptions(rank=8), 5_898_240 + 12 * 3 * 2 * 8 * (512 + 768)),
    ],
)
def test_counts_at_vit_b(vit_b, mode, options, expected):
    clip = copy.deepcopy(vit_b)
    prepare_finetuning(clip, mode, options=options)
    assert sum(p.numel() for p in clip.parameters() if p.requires_grad) == expected


def test_the_relations_of_a_deeper_image_tower():
    """ViT-L has 24 and 12 blocks: all of them are adapted, which the released code cannot do."""
    shared = SharedBlocks(24, (6, 8), 128)
    assert shared.of("vision", 23, ("q", "k", "v")).shape == (3, 8, 128, 128)
    assert shared.of("text", 11, ("out",)).shape == (1, 6, 128, 128)


@torch.no_grad()
def test_relations_equal_the_transformation_of_the_whole_tensor():
    shared = SharedBlocks(3, (2, 3), 4).double()
    disturb(shared)
    for layer in range(3):
        places, slots = shared.across_places[layer], shared.across_slots
        x = shared.blocks.permute(2, 3, 0, 1)  # (b, b, S, P), relations over the last axis as in the released code
        x = x + places.down(places.up(x))
        x = x.transpose(-1, -2)
        x = x + slots.down(slots.up(x))
        whole = x.permute(3, 2, 0, 1)[4 * layer : 4 * layer + 4]
        torch.testing.assert_close(shared.of("text", layer, ("q", "k", "v", "out")), whole[:, :2])
        torch.testing.assert_close(shared.of("vision", layer, ("k", "out")), whole[[1, 3], 2:])


@torch.no_grad()
def test_rotations_keep_every_norm():
    adapter, weight = Rotation(64, 16).double(), torch.randn(192, 64, dtype=torch.float64)
    disturb(adapter)
    rotated = adapter(weight)
    assert (rotated - weight).abs().max() > 0.1
    torch.testing.assert_close(rotated.norm(dim=1), weight.norm(dim=1))
    torch.testing.assert_close(rotated[:5, :16] @ rotated[7:9, :16].T, weight[:5, :16] @ weight[7:9, :16].T)


@torch.no_grad()
def test_low_rank_updates():
    adapter, weight = LowRank(32, rank=3, alpha=6, projections=["k"]), torch.randn(96, 32)
    disturb(adapter)
    update = adapter(weight) - weight
    assert not update[:32].any() and not update[64:].any() and torch.linalg.matrix_rank(update[32:64], atol=1e-4) == 3
    torch.testing.assert_close(update[32:64], 2 * adapter.k_up @ adapter.k_down, atol=1e-5, rtol=1e-4)


def test_what_decay_pulls_back_to_the_identity():
    assert [p.shape for p in RadiusAdjustment(64, 16).starts_at_identity()] == [(4, 16, 16)] * 3
    assert Rotation(64, 16).starts_at_identity() == [] and LowRank(32).starts_at_identity() == []


@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        ("hyperbolc", SMALL, r"got 'hyperbolc', expected one of \['attention', 'hyperbolic', 'lora'"),
        ("hyperbolic+full", SMALL, "adapters can be joined by"),
        ("lora", AdapterOptions(rank=0), "RANK: got 0, expected 1 to the attention width"),
        ("rotation", AdapterOptions(block_size=48), "BLOCK_SIZE: got 48, expected a divisor"),
        ("relations", AdapterOptions(block_size=32, block_size_text=16), "BLOCK_SIZE_TEXT: got 16"),
    ],
)
def test_mistakes(mode, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_finetuning(load_clip(TINY).model, mode, options=options)


def test_an_adapter_of_ones_own(monkeypatch, plain):
    class Scale(Adapter):
        def __init__(self) -> None:
            super().__init__()
            self.factor = torch.nn.Parameter(torch.ones(()))

        def forward(self, weight):
            return self.factor * weight

    def scale(sites: Sequence[Site], options: AdapterOptions) -> list[Adapter]:
        return [Scale() for _ in sites]

    monkeypatch.setitem(ADAPTER_REGISTRY._obj_map, "scale", scale)
    model = build_model(load_config("configs/quickstart/hyperclip.yaml",
                                    ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", "scale"]))  # fmt: skip
    counts = {part: trainable for part, trainable, _ in parameter_table(model)}
    blocks = len(model.clip.visual.transformer.resblocks), len(model.clip.transformer.resblocks)
    assert (counts["CLIP vision adapters"], counts["CLIP text adapters"]) == blocks
