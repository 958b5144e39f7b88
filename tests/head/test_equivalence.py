"""Every short cut of the head equals its obvious form: float64 to 1e-10, float32 to 1e-5
relative.
"""

from __future__ import annotations

import math

import pytest
import torch
from hyperclip.dense_features import DenseFeatures
from hyperclip.head import CostVolumeHead, pixel_class_bce
from hyperclip.head.aggregation import ClassAggregation, SpatialAggregation
from hyperclip.head.cost_head import HeadOptions, cost_volume, top_classes
from hyperclip.head.decoder import Decoder

from reference import head as obvious
from tests.helpers.defaults import default

PRECISION = {torch.float64: 1e-10, torch.float32: 1e-5}
both = pytest.mark.parametrize("dtype", PRECISION)
trained_or_not = pytest.mark.parametrize("gradients", [True, False])


def randomise(module, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    module = module.to(dtype)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator, dtype=dtype))
    return module


def random(*shape, dtype, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_equal(got, want, dtype):
    assert (got - want).abs().max() <= PRECISION[dtype] * want.abs().max()


@both
@pytest.mark.parametrize("attention", ["linear", "full"])
@pytest.mark.parametrize("classes", [1, 7, 40, 41])
def test_one_weighted_padding_token(dtype, attention, classes):
    module = randomise(ClassAggregation(16, 12, 4, 40, attention), dtype)
    x, g = random(5, classes, 16, dtype=dtype), random(classes, 12, dtype=dtype)
    want = obvious.class_attention(module, x, g.expand(5, -1, -1))
    assert_equal(module(x, g), want, dtype)


@both
@trained_or_not
def test_split_projections_and_fused_window_attention(dtype, gradients):
    module = randomise(SpatialAggregation(16, 12, 4, 3, (6, 9)), dtype)
    x, g = random(2, 5, 6, 9, 16, dtype=dtype), random(2, 6, 9, 12, dtype=dtype)
    assert module.blocks[1].shift == 1
    y = x.flatten(0, 1)
    for block in module.blocks:
        guidance = module.guidance_norm(g)[:, None].expand(-1, 5, -1, -1, -1).flatten(0, 1)
        y = obvious.window_attention(block, y, guidance)
    with torch.set_grad_enabled(gradients):
        assert_equal(module(x, module.guide(g)), y.unflatten(0, (2, 5)), dtype)


@both
@trained_or_not
def test_split_convolutions(dtype, gradients):
    module = randomise(Decoder(32, (32, 16), (16, 8)), dtype)
    x = random(2, 3, 32, 4, 5, dtype=dtype)
    g1, g2 = random(2, 16, 8, 10, dtype=dtype), random(2, 8, 16, 20, dtype=dtype)
    y = obvious.decoder_stage(module.stages[1], obvious.decoder_stage(module.stages[0], x, g1), g2)
    want = module.classifier(y.flatten(0, 1)).unflatten(0, (2, 3))[:, :, 0]
    with torch.set_grad_enabled(gradients):
        assert_equal(module(x, module.prepare([g1, g2])), want, dtype)


@both
@pytest.mark.parametrize("ignored", ["some", "all", "none"])
def test_gathered_loss(dtype, ignored):
    logits = random(2, 5, 6, 6, dtype=dtype).requires_grad_()
    target = torch.randint(0, 5, (2, 24, 24), generator=torch.Generator().manual_seed(0))
    if ignored != "none":
        target[:, : 24 if ignored == "all" else 7] = 255
    want = obvious.one_hot_bce(logits, target, 255)
    if dtype == torch.float64:
        (gradient,) = torch.autograd.grad(want, logits)
        got = pixel_class_bce(logits, target)
        (ours,) = torch.autograd.grad(got, logits)
        assert_equal(ours, gradient, torch.float32)
    assert_equal(pixel_class_bce(logits, target), want, torch.float32)


def test_loss_names_a_label_outside_the_vocabulary():
    with pytest.raises(ValueError, match=r"got \[7\], expected 0 to 4 or the ignore value 255"):
        pixel_class_bce(torch.zeros(1, 5, 4, 4), torch.full((1, 4, 4), 7))


def make_head(dtype, scaled_cosine=False, trained=True, **changes):
    arguments = {
        "feature_resolution": (4, 4),
        "hidden_dims": 16,
        "window_sizes": 2,
        "appearance_guidance_proj_dim": 12,
        "text_guidance_proj_dim": 12,
        "decoder_dims": (16, 16),
        "decoder_guidance_dims": (8, 8),
        "decoder_guidance_proj_dims": (4, 4),
        "pad_len": 9,
        "max_classes": 0,
        "pooling_sizes_test": (2, 2),
        **changes,
    }
    options = default(HeadOptions, **arguments)
    head = CostVolumeHead(
        embed_dim=24,
        width=[20, 20],
        scale=[1, 1],
        options=options,
        scaled_cosine=scaled_cosine,
        recompute=False,
    )
    return (randomise(head, dtype) if trained else head.to(dtype)).eval()


def make_features(dtype, images=2):
    maps = [random(images, 20, 4, 4, dtype=dtype, seed=i) for i in (5, 6)]
    return DenseFeatures(
        random(images, 24, 4, 4, dtype=dtype), maps, random(images, 24, dtype=dtype)
    )


@both
@pytest.mark.parametrize("pooling", [(1, 1), (2, 2)])
@pytest.mark.parametrize("chunk", [0, 1, 3, 15, 100])
@torch.no_grad()
def test_inference_in_chunks(dtype, chunk, pooling):
    """Of one class map, of three, of two images' and of all."""
    head, features = make_head(dtype, pooling_sizes_test=pooling), make_features(dtype, images=3)
    text = torch.nn.functional.normalize(random(7, 24, dtype=dtype), dim=-1)
    logits = head.infer(head.prepare(features), text, chunk)
    assert logits.kept is None
    assert_equal(logits.whole(), head(features, text), dtype)


@both
@pytest.mark.parametrize("chunk", [0, 3])
@torch.no_grad()
def test_the_scaled_cosine_is_added(dtype, chunk):
    """In training and in inference, bilinearly, to the logits of the classes that are kept."""
    plain, features = make_head(dtype, max_classes=3), make_features(dtype)
    head = make_head(dtype, scaled_cosine=True, max_classes=3)
    head.load_state_dict(plain.state_dict(), strict=False)
    head.scaled_cosine.log_scale.fill_(math.log(7.0))
    head.scaled_cosine.bias.fill_(-2.0)
    text = torch.nn.functional.normalize(random(5, 24, dtype=dtype), dim=-1)
    got = head.infer(head.prepare(features), text, chunk)
    own = plain.infer(plain.prepare(features), text, chunk)
    costs = 7 * cost_volume(features.embeddings, text) - 2
    fine = torch.nn.functional.interpolate(costs, scale_factor=4.0, mode="bilinear")
    added = fine.gather(1, got.kept[:, :, None, None].expand_as(got.logits))
    assert_equal(got.logits, own.logits + added, dtype)
    assert_equal(got.whole(), head(features, text), dtype)
    untrained = make_head(dtype, scaled_cosine=True, trained=False)
    scale = untrained.scaled_cosine.log_scale.exp()
    assert scale == pytest.approx(25)
    costs = scale * cost_volume(features.embeddings, text) - 12
    fine = torch.nn.functional.interpolate(costs, scale_factor=4.0, mode="bilinear")
    assert_equal(untrained(features, text), fine, dtype)


@pytest.mark.parametrize("chunk", [0, 2, 6])
@torch.no_grad()
def test_every_view_has_classes_of_its_own(chunk):
    head, features = make_head(torch.float64, max_classes=3), make_features(torch.float64)
    text = torch.nn.functional.normalize(random(11, 24, dtype=torch.float64), dim=-1)
    kept = top_classes(cost_volume(features.embeddings, text), 3)
    assert kept.shape == (2, 3) and kept[0].tolist() != kept[1].tolist()
    want, got = head(features, text), head.infer(head.prepare(features), text, chunk)
    assert torch.equal(got.kept, kept) and got.logits.shape[1] == 3
    assert_equal(got.whole(), want, torch.float64)
    head.max_classes = 0
    for i in range(2):
        assert_equal(want[i, kept[i]], head(features, text[kept[i]])[i], torch.float64)


def test_a_feature_map_of_another_grid_is_an_error():
    features = DenseFeatures(torch.zeros(1, 24, 5, 5), [], torch.zeros(1, 24))
    with pytest.raises(ValueError, match=r"got \(5, 5\), expected the grid \(4, 4\)"):
        make_head(torch.float32)(features, torch.zeros(2, 24))
