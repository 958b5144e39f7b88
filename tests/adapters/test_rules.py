"""What each adapter computes, by its formula: caps, curvatures of the towers, blocks, rotations,
relations.
"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hyperclip.adapters import (
    AdapterOptions,
    LowRank,
    RadiusAdjustment,
    RelatedRadius,
    Rotation,
    SharedBlocks,
    TrainedProjections,
    adapters,
    merge,
    parameter_table,
    prepare_finetuning,
)
from hyperclip.clip import load_clip

from tests.helpers.blocks import tower
from tests.helpers.defaults import default

TINY = "configs/quickstart/tiny_clip"
INPUT_CAP, OUTPUT_CAP = math.atanh(1 - 1e-5), math.atanh(1 - 1e-3)
"""Times 1 / sqrt(c): the largest norm of a row that is seen, and of a row that is given back."""


def rows_of(norms, width=8):
    """A weight (3 width, width) whose rows have these norms, in turn, and directions without
    zeros.
    """
    weight = (
        torch.rand(
            3 * width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        + 0.5
    )
    sizes = torch.tensor(norms, dtype=torch.float64).repeat(3 * width)[: 3 * width]
    return weight / weight.norm(dim=1, keepdim=True) * sizes[:, None]


def capped(weight, factor, c):
    """The rule for ``M = factor I``: what a row is cut to before and after it is scaled."""
    norm = weight.norm(dim=1, keepdim=True)
    size = (factor * norm.clamp(max=INPUT_CAP / c**0.5)).clamp(max=OUTPUT_CAP / c**0.5)
    return weight / norm * size


@pytest.mark.parametrize("literal", [False, True], ids=["fast", "literal"])
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("c", [1.0, 0.04])
@pytest.mark.parametrize("factor", [0.25, 1.0, 2.0])
def test_rows_are_capped_before_and_after_the_product(literal, gradients, c, factor):
    """With 0.25 only the first cap is reached, with 2 only the second one decides."""
    adapter = RadiusAdjustment(8, 4, c, literal=literal).double()
    with torch.no_grad():
        for p in adapter.parameters():
            p.mul_(factor)
    weight = rows_of([0.5, 3.0, 3.9, 5.9, 6.5, 30.0, 1000.0]) / c**0.5
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(adapter(weight), capped(weight, factor, c), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("c", [1.0, 0.04])
def test_related_blocks_have_the_same_caps(c):
    adapter = RelatedRadius(SharedBlocks(1, (2, 2), 4).double(), "text", 0, ("q", "k", "v"), c)
    for factor in (0.25, 2.0):
        with torch.no_grad():
            adapter.shared.blocks.copy_(
                factor * torch.eye(4, dtype=torch.float64).expand_as(adapter.shared.blocks)
            )
        weight = rows_of([0.5, 3.0, 3.9, 5.9, 6.5, 30.0, 1000.0]) / c**0.5
        torch.testing.assert_close(adapter(weight), capped(weight, factor, c), rtol=1e-6, atol=1e-9)


def test_rows_are_multiplied_by_the_transposed_blocks():
    """Row w of q, k, v becomes M w, with blocks of their own: not M^T w, nor the other projections'
    blocks.
    """
    adapter = RadiusAdjustment(4, 2, 1e-6).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in adapter.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    weight = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    expected = torch.cat(
        [
            torch.stack([torch.block_diag(*getattr(adapter, name)) @ row for row in part])
            for name, part in zip("qkv", weight.chunk(3), strict=True)
        ]
    )
    torch.testing.assert_close(adapter(weight), expected)
    with torch.no_grad():
        torch.testing.assert_close(adapter(weight), expected)


@pytest.mark.parametrize("chosen", [["q"], ["v", "k"], ["q", "v"]])
@pytest.mark.parametrize("kind", [RadiusAdjustment, Rotation, LowRank, TrainedProjections])
def test_only_the_chosen_projections_change(kind, chosen):
    weight = rows_of([1.0])
    start = {
        RadiusAdjustment: (8, 4, 1e-6),
        Rotation: (8, 4),
        LowRank: (8, 2, 8.0),
        TrainedProjections: (weight,),
    }[kind]
    adapter = kind(*start, projections=chosen).double()
    torch.testing.assert_close(adapter(weight), weight)
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    changed = (adapter(weight) - weight).unflatten(0, (3, -1)).abs().amax((1, 2))
    assert [
        name for name, size in zip("qkv", changed.tolist(), strict=True) if size > 1e-3
    ] == sorted(chosen, key="qkv".index)


@pytest.mark.parametrize("order", ["vkq", "kqv", "qvk", "vk"])
@pytest.mark.parametrize("literal", [False, True])
def test_the_order_in_which_projections_are_named_does_not_matter(order, literal):
    weight = rows_of([1.0])
    named, usual = (
        RadiusAdjustment(8, 4, 1e-6, projections=names, literal=literal).double()
        for names in (order, sorted(order, key="qkv".index))
    )
    for k, name in enumerate(order):
        for adapter in (named, usual):
            getattr(adapter, name).data.mul_(k + 2)
    assert torch.equal(named(weight), usual(weight))
    for name, part, before in zip("qkv", named(weight).chunk(3), weight.chunk(3), strict=True):
        factor = order.index(name) + 2 if name in order else 1
        torch.testing.assert_close(part, factor * before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["hyperbolic", "relations"])
def test_each_tower_has_its_curvature(mode):
    """The norm to which far rows are cut is that of the tower's own ball."""
    clip = load_clip(TINY).model
    options = default(AdapterOptions, block_size=32, curvature_vision=0.04, curvature_text=0.25)
    with torch.no_grad():
        for encoder in ("vision", "text"):
            for block in tower(clip, encoder):
                block.attn.in_proj_weight.mul_(1e4)
    prepare_finetuning(clip, mode, options=options)
    for encoder, c in (("vision", 0.04), ("text", 0.25)):
        for block in tower(clip, encoder):
            norms = block.attn.in_proj_weight.norm(dim=1)
            torch.testing.assert_close(
                norms, torch.full_like(norms, OUTPUT_CAP / c**0.5), rtol=1e-4, atol=0
            )


@pytest.mark.parametrize(("text", "expected"), [(0, (32, 32)), (64, (32, 64))])
def test_each_tower_has_its_block_size(text, expected):
    clip = load_clip(TINY).model
    prepare_finetuning(
        clip, "hyperbolic", options=default(AdapterOptions, block_size=32, block_size_text=text)
    )
    sides = [
        {
            p.shape[-1]
            for n, a in adapters(clip)
            for p in a.parameters()
            if ("visual" in n) == vision
        }
        for vision in (True, False)
    ]
    assert sides == [{expected[0]}, {expected[1]}]


@pytest.mark.parametrize("encoders", [["vision"], ["text"], ["vision", "text"]])
@pytest.mark.parametrize("mode", ["hyperbolic", "rotation", "lora", "relations"])
def test_only_the_chosen_towers_are_adapted(mode, encoders):
    clip = load_clip(TINY).model
    prepare_finetuning(
        clip, mode, default(AdapterOptions, encoders=encoders, block_size=32, rank=2)
    )
    each = 2 if mode == "relations" else 1
    for encoder in ("vision", "text"):
        found = [
            m for b in tower(clip, encoder) for m in b.modules() if hasattr(m, "parametrizations")
        ]
        assert len(found) == (each * len(tower(clip, encoder)) if encoder in encoders else 0)


@pytest.mark.parametrize("t", [0.0, 0.3, -2.0])
def test_cayley_of_a_plane(t):
    """S = ((0, t), (-t, 0)) of P = ((0, 2t), (0, 0)) gives (I - S)^-1 (I + S), the rotation of
    tangent t of the half angle.
    """
    adapter = Rotation(2, 2, ["q"]).double()
    with torch.no_grad():
        adapter.q[0, 0, 1] = 2 * t
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    rotation = torch.tensor([[cosine, sine], [-sine, cosine]], dtype=torch.float64)
    weight = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(adapter(weight)[:2], weight[:2] @ rotation.T)


def test_the_symmetric_part_of_a_rotations_parameter_does_nothing():
    adapter, weight = Rotation(4, 2).double(), rows_of([1.0], 4)
    with torch.no_grad():
        adapter.q.copy_(torch.tensor([[[3.0, 1.0], [1.0, -2.0]]]).expand(2, 2, 2))
    torch.testing.assert_close(adapter(weight), weight)


@pytest.mark.parametrize(("rank", "alpha"), [(1, 3.0), (4, 8.0)])
def test_the_scale_of_low_rank_updates(rank, alpha):
    adapter, weight = LowRank(8, rank, alpha).double(), rows_of([1.0])
    with torch.no_grad():
        for name in "qkv":
            getattr(adapter, f"{name}_up").fill_(1.0)
            getattr(adapter, f"{name}_down").fill_(0.5)
    torch.testing.assert_close(
        adapter(weight) - weight,
        torch.full((24, 8), alpha / rank * rank * 0.5, dtype=torch.float64),
    )


@pytest.mark.parametrize("rank", [0, 9])
def test_ranks_out_of_range(rank):
    with pytest.raises(ValueError, match=f"RANK: got {rank}, expected 1 to the attention width 8"):
        LowRank(8, rank, 8.0)
    assert LowRank(8, 8, 8.0).q_down.shape == (8, 8)


def test_low_rank_factors_start_at_random_downwards_alone():
    adapter = LowRank(64, 16, 8.0)
    bound = 1 / 64**0.5  # what kaiming_uniform gives with a = sqrt(5), as in the released LoRA
    assert not adapter.q_up.any() and 0.5 * bound < adapter.q_down.abs().max() <= bound


@pytest.mark.parametrize("value", [[], ["x"], ["q", "o"]])
def test_projections_that_do_not_exist(value):
    for make in (partial(RadiusAdjustment, curvature=0.01), Rotation):
        with pytest.raises(
            ValueError, match=r"PROJECTIONS: got .*, expected one or more of \['q', 'k', 'v'\]"
        ):
            make(8, 4, projections=value)


@pytest.mark.parametrize("block_size", [0, 3, 16])
def test_blocks_that_do_not_fill_the_width(block_size):
    with pytest.raises(
        ValueError,
        match=f"BLOCK_SIZE: got {block_size}, expected a divisor of the attention width 8",
    ):
        RadiusAdjustment(8, block_size, 0.01)
    assert RadiusAdjustment(8, 1, 0.01).q.shape == (8, 1, 1)
    assert RadiusAdjustment(8, 8, 0.01).q.shape == (1, 8, 8)


def test_the_default_options_are_those_of_the_released_code():
    options = default(AdapterOptions)
    assert (options.block_size, options.block_size_text, options.rank, options.alpha) == (
        128,
        0,
        8,
        8.0,
    )
    assert tuple(options.projections) == () and not options.literal  # each adapter has its own
    assert options.curvature("vision") == 0.01 and options.curvature("text") == 1.0
    clip = load_clip(TINY).model
    for mode, wanted in (("hyperbolic", ("q", "k", "v")), ("attention", ("q", "v"))):
        prepare_finetuning(clip, mode, options=default(AdapterOptions, block_size=32))
        assert {a.projections for _, a in adapters(clip)} == {wanted}
        clip = load_clip(TINY).model


@pytest.mark.parametrize("c", [0.0, -1.0, float("nan")])
def test_curvatures_that_are_none(c):
    with pytest.raises(ValueError, match="CURVATURE_.*: got .*, expected a positive number"):
        RadiusAdjustment(8, 4, c)


def test_what_trains_and_what_stays_frozen():
    clip = load_clip(TINY).model
    prepare_finetuning(clip, "hyperbolic", options=default(AdapterOptions, block_size=32))
    inside = {id(p) for _, a in adapters(clip) for p in a.parameters()}
    assert {id(p) for p in clip.parameters() if p.requires_grad} == inside
    prepare_finetuning(full := load_clip(TINY).model, "full", default(AdapterOptions))
    assert [n for n, p in full.named_parameters() if not p.requires_grad] == ["logit_scale"]
    prepare_finetuning(none := load_clip(TINY).model, "none", default(AdapterOptions))
    assert not any(p.requires_grad for p in none.parameters())


def test_the_table_counts_both_towers_and_the_sum():
    clip = load_clip(TINY).model
    prepare_finetuning(clip, "hyperbolic", options=default(AdapterOptions, block_size=32))
    model = torch.nn.ModuleDict({"clip": clip, "sem_seg_head": torch.nn.Linear(3, 2)})
    rows = {part: (trainable, total) for part, trainable, total in parameter_table(model)}
    width, text = clip.visual.conv1.out_channels, clip.token_embedding.embedding_dim
    layers, text_layers = len(tower(clip, "vision")), len(tower(clip, "text"))
    assert rows["CLIP vision adapters"] == (3 * 32 * width * layers,) * 2
    assert rows["CLIP text adapters"] == (3 * 32 * text * text_layers,) * 2
    assert rows["sem_seg_head"] == (8, 8) and rows["CLIP vision"][0] == rows["CLIP text"][0] == 0
    assert rows["total"] == (
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        sum(p.numel() for p in model.parameters()),
    )
    assert list(rows)[-1] == "total" and merge(model) == layers + text_layers
