"""Every adapter: the identity at the start, mergeable, counted, trained in full; and what each of
them is.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import replace

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
from hyperclip.adapters.attention_weights import cayley
from hyperclip.clip import encode_dense, load_clip
from hyperclip.clip.text_tower import encode_text, tokenize
from hyperclip.config.keys import load_config

from tests.helpers.blocks import tower
from tests.helpers.defaults import default

TINY = "configs/quickstart/tiny_clip"
MODES = [
    "hyperbolic",
    "attention",
    "relations",
    "rotation",
    "lora",
    "hyperbolic+rotation",
    "lora+relations",
]
SMALL = default(AdapterOptions, block_size=32, curvature_text=0.01, rank=4)


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
    for ours, theirs in zip(
        outputs(model, plain.tokenizer), outputs(plain.model, plain.tokenizer), strict=True
    ):
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
    without = [
        n
        for n, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)
    ]
    last = f"visual.transformer.resblocks.{len(model.visual.transformer.resblocks) - 1}."
    # The last block of the image tower gives values only, so that its q and k have no influence.
    assert [n for n in without if not (n.startswith(last) and n.rsplit(".", 1)[1][0] in "qk")] == []
    assert not any(p.grad is not None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize(
    ("mode", "options", "expected"),
    [
        ("hyperbolic", default(AdapterOptions), 5_898_240),
        ("rotation", default(AdapterOptions), 5_898_240),
        ("relations", default(AdapterOptions), 7_892_352),
        ("attention", default(AdapterOptions), 20_447_232),
        ("lora", default(AdapterOptions, rank=8), 12 * 3 * 2 * 8 * (512 + 768)),
        (
            "hyperbolic+lora",
            default(AdapterOptions, rank=8),
            5_898_240 + 12 * 3 * 2 * 8 * (512 + 768),
        ),
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
        # (b, b, S, P), relations over the last axis as in the released code
        x = shared.blocks.permute(2, 3, 0, 1)
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
    torch.testing.assert_close(
        rotated[:5, :16] @ rotated[7:9, :16].T, weight[:5, :16] @ weight[7:9, :16].T
    )


@torch.no_grad()
def test_low_rank_updates():
    adapter, weight = LowRank(32, rank=3, alpha=6, projections=["k"]), torch.randn(96, 32)
    disturb(adapter)
    update = adapter(weight) - weight
    assert (
        not update[:32].any()
        and not update[64:].any()
        and torch.linalg.matrix_rank(update[32:64], atol=1e-4) == 3
    )
    torch.testing.assert_close(
        update[32:64], 2 * adapter.k_up @ adapter.k_down, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("mode", ["hyperbolic", "attention", "relations", "rotation", "lora"])
@pytest.mark.parametrize("projections", [("q",), ("v", "k"), ("q", "k", "v"), ("k", "k")])
def test_every_adapter_obeys_the_projections(plain, mode, projections):
    model = adapted(mode, replace(SMALL, projections=projections))
    disturb(model)
    for encoder in ("vision", "text"):
        for ours, theirs in zip(tower(model, encoder), tower(plain.model, encoder), strict=True):
            rows = zip(
                "qkv",
                ours.attn.in_proj_weight.chunk(3),
                theirs.attn.in_proj_weight.chunk(3),
                strict=True,
            )
            moved = {name for name, one, other in rows if (one - other).abs().max() > 1e-4}
            assert moved == set(projections)
            assert torch.equal(ours.attn.out_proj.weight, theirs.attn.out_proj.weight)


def test_relations_of_chosen_matrices(plain):
    """Those that are not chosen have no slots, so nothing is left without an influence."""
    for projections, slots in ((("out",), 1), (("q", "out"), 2), ((), 4)):
        model = adapted("relations", replace(SMALL, projections=projections))
        shared = next(m for m in model.modules() if isinstance(m, SharedBlocks))
        assert shared.blocks.shape[0] == slots * 6
        disturb(model)
        for ours, theirs in zip(tower(model, "text"), tower(plain.model, "text"), strict=True):
            moved = (ours.attn.in_proj_weight - theirs.attn.in_proj_weight).abs().amax(1).view(
                3, -1
            ).amax(1) > 1e-4
            wanted = projections or ("q", "k", "v", "out")
            assert moved.tolist() == [name in wanted for name in "qkv"]
            assert (
                (ours.attn.out_proj.weight - theirs.attn.out_proj.weight).abs().max() > 1e-4
            ) == ("out" in wanted)
        dense, text = outputs(model, plain.tokenizer)
        (dense.square().sum() + text[:, ::2].sum()).backward()
        assert shared.blocks.grad.flatten(2).abs().sum((1, 2)).gt(0).all()


def test_released_curvatures():
    """HyperCLIP: 1.0 in the text tower, 0.01 in the other; HyperCLIP++: 0.01 in both. What is set
    counts.
    """
    for options, want in (
        (
            default(AdapterOptions, block_size=32),
            {"hyperbolic": (0.01, 1.0), "relations": (0.01, 0.01)},
        ),
        (
            default(AdapterOptions, block_size=32, curvature_vision=0.3, curvature_text=1.0),
            dict.fromkeys(MODES[:3:2], (0.3, 1.0)),
        ),
        (
            default(AdapterOptions, block_size=32, curvature_text=0.7),
            dict.fromkeys(MODES[:3:2], (0.01, 0.7)),
        ),
    ):
        for mode, (vision, text) in want.items():
            model = adapted(mode, options)
            found = {
                ("vision" if "visual" in name else "text", a.curvature)
                for name, a in adapters(model)
                if hasattr(a, "curvature")
            }
            assert found == {("vision", vision), ("text", text)}, mode


def test_curvatures_of_a_config():
    for mode, text in (("hyperbolic", 1.0), ("relations", 0.01)):
        keys = ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", mode]
        for more, want in (([], text), (["MODEL.ADAPTER.CURVATURE_TEXT", "0.5"], 0.5)):
            model = build_model(load_config("configs/quickstart/hyperclip.yaml", [*keys, *more]))
            found = {
                a.curvature
                for name, a in adapters(model)
                if "visual" not in name and hasattr(a, "curvature")
            }
            assert found == {want}


@torch.no_grad()
@pytest.mark.parametrize("mode", ["hyperbolic", "relations"])
@pytest.mark.parametrize(("vision", "text"), [(0.01, 4.0), (4.0, 0.01)])
def test_rows_are_capped_by_the_curvature_of_their_tower(plain, mode, vision, text):
    """artanh(1 - 1e-3) / sqrt(c) after the product, and artanh(1 - 1e-5) / sqrt(c) times the blocks
    before it.
    """
    model = adapted(mode, replace(SMALL, curvature_vision=vision, curvature_text=text))
    for encoder, c in (("vision", vision), ("text", text)):
        attn = tower(model, encoder)[0].attn
        weight = attn.parametrizations.in_proj_weight.original
        weight *= 8 / weight.norm(dim=1, keepdim=True)
        bounds = math.atanh(1 - 1e-3) / math.sqrt(c), math.atanh(1 - 1e-5) / math.sqrt(c)
        torch.testing.assert_close(
            attn.in_proj_weight.norm(dim=1), torch.full((len(weight),), min(8.0, bounds[0]))
        )
        blocks = next(a for _, a in adapters(attn))
        target = blocks.shared.blocks if mode == "relations" else blocks.q
        target *= 0.25
        rows = attn.in_proj_weight[: len(weight) // 3]
        torch.testing.assert_close(
            rows.norm(dim=1), torch.full((len(rows),), min(0.25 * min(8.0, bounds[1]), bounds[0]))
        )
        directions = torch.nn.functional.cosine_similarity(rows, weight[: len(rows)])
        torch.testing.assert_close(directions, torch.ones(len(rows)))
        if mode == "relations":
            target /= 0.25  # shared by both towers


def test_the_order_of_cayleys_map():
    """(I - S)^-1 (I + S) with S = (P - P^T) / 2: a plane turns by twice the arc tangent of S's
    entry.
    """
    free = torch.tensor([[[0.3, 0.5], [-0.1, 0.2]]], dtype=torch.float64)
    angle = 2 * math.atan((0.5 + 0.1) / 2)
    want = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    torch.testing.assert_close(cayley(free)[0], torch.tensor(want, dtype=torch.float64))
    free = torch.randn(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    skew = (free - free.mT) / 2
    one = torch.eye(8, dtype=torch.float64)
    torch.testing.assert_close(cayley(free), torch.linalg.inv(one - skew) @ (one + skew))


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("hyperbolic+attention", "hyperbolic_radius"),
        ("lora+attention", "lora"),
        ("rotation+attention", "rotation"),
        ("relations+attention", "relations"),
        ("attention+attention", "attention"),
        ("attention+hyperbolic+attention", "attention"),
        ("lora+attention+hyperbolic", "lora"),
    ],
)
def test_joined_adapters_without_influence_are_refused(mode, name):
    message = re.escape(f"CLIP_FINETUNE: got {mode!r}, where what {name!r} trains for ['q', 'v']")
    with pytest.raises(ValueError, match=message):
        adapted(mode)


@pytest.mark.parametrize("projections", [(), ("k",), ("q", "v")])
@pytest.mark.parametrize(
    "mode", ["attention+hyperbolic", "attention+lora", "attention+rotation", "attention+relations"]
)
def test_joined_adapters_after_the_one_that_replaces(plain, mode, projections):
    model = adapted(mode, replace(SMALL, projections=projections))
    disturb(model)
    dense, text = outputs(model, plain.tokenizer)
    (dense.square().sum() + text[:, ::2].sum()).backward()
    # gives values only, and of the text tower there is no such block
    deepest = len(model.visual.transformer.resblocks) - 1
    last = f"visual.transformer.resblocks.{deepest}."
    without = [
        n
        for n, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)
    ]
    if projections == ("k",):
        without = [n for n in without if f"across_places.{deepest}." not in n]
    assert [n for n in without if not (n.startswith(last) and n.rsplit(".", 1)[1][0] in "qk")] == []


def test_an_own_adapter_that_ignores_what_it_gets_is_noticed(monkeypatch):
    class Constant(Adapter):
        def __init__(self, weight) -> None:
            super().__init__()
            self.value = torch.nn.Parameter(weight.detach().chunk(3)[1].clone())

        def forward(self, weight):
            q, _, v = weight.chunk(3)
            return torch.cat([q, self.value, v])

    monkeypatch.setitem(
        ADAPTER_REGISTRY._obj_map,
        "constant",
        lambda sites, options: [Constant(s.weight) for s in sites],
    )
    with pytest.raises(
        ValueError, match=r"what 'hyperbolic_radius' trains for \['k'\] would have no influence"
    ):
        adapted("hyperbolic+constant")
    adapted("constant+hyperbolic")
    adapted("hyperbolic+constant", replace(SMALL, projections=("q", "v")))


def test_what_decay_pulls_back_to_the_identity():
    radius = RadiusAdjustment(64, 16, 0.01)
    assert [p.shape for p in radius.starts_at_identity()] == [(4, 16, 16)] * 3
    for other in (Rotation(64, 16), LowRank(32, 8, 8.0)):
        assert other.starts_at_identity() == []


@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        (
            "hyperbolc",
            SMALL,
            r"got 'hyperbolc', expected one of \['attention', 'context', 'hyperbolic'",
        ),
        ("hyperbolic+full", SMALL, "adapters can be joined by"),
        (
            "relations",
            default(AdapterOptions, block_size=32, curvature_vision=0.0),
            "CURVATURE_.*: got 0.0, expected a positive number",
        ),
        (
            "hyperbolic",
            default(AdapterOptions, block_size=32, curvature_text=-0.5),
            "CURVATURE_.*: got -0.5, expected a positive",
        ),
        (
            "attention",
            default(AdapterOptions, projections=("q", "out")),
            r"PROJECTIONS: got \['q', 'out'\], expected one or more of",
        ),
        ("lora", default(AdapterOptions, rank=0), "RANK: got 0, expected 1 to the attention width"),
        (
            "rotation",
            default(AdapterOptions, block_size=48),
            "BLOCK_SIZE: got 48, expected a divisor",
        ),
        (
            "relations",
            default(AdapterOptions, block_size=32, block_size_text=16),
            "BLOCK_SIZE_TEXT: got 16",
        ),
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
    model = build_model(
        load_config(
            "configs/quickstart/hyperclip.yaml",
            ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", "scale"],
        )
    )
    counts = {part: trainable for part, trainable, _ in parameter_table(model)}
    blocks = len(model.clip.visual.transformer.resblocks), len(model.clip.transformer.resblocks)
    assert (counts["CLIP vision adapters"], counts["CLIP text adapters"]) == blocks
