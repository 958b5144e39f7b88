"""Early-layer fusion in small: against its formulas written out, its options, sizes and windows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from cliper.fusion import FusionOptions, encode_layers, fused_maps, proxy_affinity
from cliper.preprocess import resize_for_clip, target_size
from cliper.scores import Embedded, ScoreOptions, class_probabilities, coarse_scores, with_negatives
from cliper.windows import Windows, merge_affinities, window_boxes
from hyperclip.clip import load_clip

from tests.helpers.defaults import default


@pytest.fixture(scope="module")
def visual():
    return load_clip("configs/quickstart/tiny_clip").model.visual.double().requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    return torch.randn(
        2, 3, 48, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def literal_maps(total, rounds):
    """The fused map after some Sinkhorn rounds, as the formulas say it."""
    for _ in range(rounds):
        total = total / total.sum(-2, keepdim=True)
        total = total / total.sum(-1, keepdim=True)
    fused = (total + total.transpose(-1, -2)) / 2
    fused = (fused - fused.mean(-2, keepdim=True)).clamp(min=0)
    return fused / fused.sum(-1, keepdim=True)


def test_fused_maps():
    total = (
        torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 4
    )
    options = default(FusionOptions)
    for rounds, made in zip(
        [0, 1, 2, 5], fused_maps(total.clone(), [0, 1, 2, 5], options), strict=True
    ):
        torch.testing.assert_close(made, literal_maps(total, rounds))
        torch.testing.assert_close(made.sum(-1), torch.ones(2, 3, 9, dtype=torch.float64))
        assert (made >= 0).all()


def test_a_row_that_is_cut_entirely_stays_zero():
    total = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    total[..., 0, :] = total[..., :, 0] = 0.1  # below the mean of every column
    (fused,) = fused_maps(total, [0], default(FusionOptions))
    assert not fused[0, 0, 0].any() and torch.isfinite(fused).all()
    torch.testing.assert_close(fused[0, 0, 1:].sum(-1), torch.ones(2, dtype=torch.float64))


def test_a_fixed_number_of_rounds_uses_one_map_for_all_layers(visual, images):
    one, affinity = encode_layers(visual, images, default(FusionOptions, sinkhorn=6), [0, 5])
    per_layer, last = encode_layers(visual, images, default(FusionOptions), [0, 5])
    torch.testing.assert_close(affinity, last)
    torch.testing.assert_close(one[1], per_layer[1])
    assert (one[0] - per_layer[0]).abs().max() > 1e-6


def test_a_batch_equals_single_images(visual, images):
    together, affinities = encode_layers(visual, images, default(FusionOptions), list(range(6)))
    for b in range(2):
        alone, affinity = encode_layers(
            visual, images[b : b + 1], default(FusionOptions), list(range(6))
        )
        torch.testing.assert_close(together[:, b], alone[:, 0])
        torch.testing.assert_close(affinities[b], affinity[0])


def test_the_last_block_of_clip_itself(visual, images):
    own, _ = encode_layers(visual, images[:, :, :48, :48], default(FusionOptions, "clip"), [5])
    x = visual._embeds(images[:, :, :48, :48])
    x = visual.ln_post(visual.transformer(x)) @ visual.proj
    torch.testing.assert_close(own[0], F.normalize(x[:, 1:].float(), dim=-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["vanilla", "q-q", "k-k", "v-v", "identity"])
def test_ablations_give_affinities_with_rows_that_sum_to_one(visual, images, attention):
    features, affinity = encode_layers(visual, images, default(FusionOptions, attention), [5])
    assert features.shape == (1, 2, 48, 64) and torch.isfinite(features).all()
    with_class = 1.0 if attention == "identity" else affinity.sum(-1).max()
    assert 0 < affinity.sum(-1).min() <= with_class <= 1 + 1e-5


def test_first_version_options_change_the_result(visual, images):
    base, _ = encode_layers(visual, images, default(FusionOptions), [3, 5])
    for change in (
        {"center": "max", "center_scale": 0.2},
        {"residual": -1.0},
        {"half_positions": True},
    ):
        other, _ = encode_layers(visual, images, replace(default(FusionOptions), **change), [3, 5])
        assert torch.isfinite(other).all() and (other - base).abs().max() > 1e-7


def test_proxy(visual, images):
    features = torch.randn(2, 16, 9, 11)
    proxy = proxy_affinity(features, (6, 8))
    torch.testing.assert_close(proxy.sum(-1), torch.ones(2, 48))
    mixed, affinity = encode_layers(
        visual, images, default(FusionOptions, "proxy"), [5], proxy.double()
    )
    torch.testing.assert_close(affinity, proxy.double())
    assert torch.isfinite(mixed).all()
    with pytest.raises(ValueError, match="needs proxy"):
        encode_layers(visual, images, default(FusionOptions, "proxy"), [5])


def literal_scores(q, affinity, select, threshold, average, rows):
    """Probabilities (M, N, T) to scores (N, T), a class at a time."""
    q = q.clone()
    for c in range(q.shape[2]):
        column = q[select, :, c]
        column[column < threshold * column.max()] = 0  # in place, so the mean sees it
    out = affinity @ q[select] if rows else affinity.T @ q[select]
    return out + (q if average == "all" else q[:-1]).mean(0)


@pytest.mark.parametrize("average", ["all", "early"])
@pytest.mark.parametrize("propagation", ["rows", "columns"])
@pytest.mark.parametrize("select", [-1, -2])
def test_scores(average, propagation, select):
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(4, 30, 8, generator=generator), dim=-1)
    text = F.normalize(torch.randn(9, 8, generator=generator), dim=-1)
    affinity = torch.rand(30, 30, generator=generator).softmax(-1)
    options = default(ScoreOptions, 10.0, select, average, 1.0, 0.3, propagation)
    scores = coarse_scores(Embedded(features, affinity, (5, 6)), text, 7, options)
    q = (10 * features @ text.T).softmax(-1)[..., :7]
    expected = literal_scores(q, affinity, select, 0.3, average, propagation == "rows")
    torch.testing.assert_close(scores, expected.T.reshape(7, 5, 6))


def test_negatives():
    classes, negatives = (
        F.normalize(torch.randn(3, 8), dim=-1),
        F.normalize(torch.randn(2, 8), dim=-1),
    )
    both = with_negatives(classes, negatives, mean=True)
    assert both.shape == (6, 8) and torch.equal(both[3:5], negatives)
    torch.testing.assert_close(both[5], F.normalize(classes.mean(0), dim=0))
    assert torch.equal(with_negatives(classes, None, mean=False), classes)


@pytest.mark.parametrize(
    ("map_size", "crop", "stride", "expected"),
    [
        ((21, 28), 14, 7, [(y, x, 14, 14) for y in (0, 7) for x in (0, 7, 14)]),
        ((21, 28), 21, 7, [(0, 0, 21, 21), (0, 7, 21, 21)]),
        ((15, 15), 14, 7, [(0, 0, 14, 14), (0, 1, 14, 14), (1, 0, 14, 14), (1, 1, 14, 14)]),
        ((10, 20), 14, 7, [(0, 0, 10, 14), (0, 6, 10, 14)]),
        ((1, 1), 14, 7, [(0, 0, 1, 1)]),
    ],
)
def test_windows_cover_the_map_and_stay_inside(map_size, crop, stride, expected):
    boxes = window_boxes(*map_size, crop, stride)
    assert boxes == expected
    covered = torch.zeros(map_size)
    for y, x, h, w in boxes:
        covered[y : y + h, x : x + w] += 1
    assert covered.min() >= 1


@pytest.mark.parametrize("side", [1, 5, 13])
@pytest.mark.parametrize(("crop", "stride"), [(c, s) for c in (1, 3, 6) for s in range(1, c + 1)])
def test_every_stride_up_to_the_window_covers_every_patch(side, crop, stride):
    covered = torch.zeros(side, side + 2)
    for y, x, h, w in window_boxes(side, side + 2, crop, stride):
        covered[y : y + h, x : x + w] += 1
    assert covered.min() >= 1


def test_rows_that_every_crop_cut_entirely_stay_zero():
    """A map that only looks at the class token has empty rows of patches."""
    affinities = torch.tensor([[[0.0, 0.0], [0.5, 0.5]], [[0.2, 0.8], [0.0, 0.0]]])
    merged = merge_affinities(affinities, [(0, 0, 1, 2), (0, 1, 1, 2)], (1, 3))
    assert not merged[0].any() and not merged[2].any()
    torch.testing.assert_close(merged[1], torch.tensor([0.5, 0.35, 0.8]) / 1.65, atol=1e-4, rtol=0)


def test_proxy_of_patches_that_are_all_alike():
    """What an image below two patches of the other network gives: one feature for the whole
    grid.
    """
    for seed in range(40):
        feature = torch.randn(1, 384, 1, 1, generator=torch.Generator().manual_seed(seed))
        for grid in ((1, 1), (1, 2), (3, 3), (5, 7)):
            affinity = proxy_affinity(feature, grid)
            assert torch.isfinite(affinity).all() and (affinity >= 0).all()
            torch.testing.assert_close(affinity.sum(-1), torch.ones(1, grid[0] * grid[1]))


def test_affinities_of_windows():
    boxes = [(0, 0, 1, 2), (0, 1, 1, 2)]
    merged = merge_affinities(
        torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.3, 0.7], [0.2, 0.8]]]), boxes, (1, 3)
    )
    assert merged[0, 2] == 0 and merged[2, 0] == 0  # no window holds both
    torch.testing.assert_close(merged.sum(-1), torch.ones(3))
    torch.testing.assert_close(merged[1], torch.tensor([0.5, 0.4, 0.7]) / 1.6, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (375, 500, (336, 448)),
        (1, 1, (336, 336)),
        (8000, 8000, (336, 336)),
        (16, 8000, (16, 2560)),
        (8000, 20, (2560, 16)),
    ],
)
def test_sizes(height, width, expected):
    assert target_size(height, width, 336, 16, 2560) == expected
    picture = torch.zeros(3, min(height, 50), min(width, 50), dtype=torch.uint8)
    assert resize_for_clip(picture, (32, 16)).shape == (3, 32, 16)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: default(FusionOptions, "fuse"), "got 'fuse', expected one of"),
        (lambda: default(FusionOptions, center="min"), "got 'min'"),
        (lambda: default(FusionOptions, sinkhorn=-2), "got -2"),
        (lambda: default(ScoreOptions, propagation="both"), "PROPAGATION: got 'both'"),
        (lambda: default(ScoreOptions, average="late"), "AVERAGE: got 'late'"),
        (lambda: default(ScoreOptions, attention_threshold=2.0), "got 2.0, expected 0 to 1"),
        (lambda: default(ScoreOptions, select_layer=-7).layers(6), "got -7, expected -6 to 5"),
        (
            lambda: default(ScoreOptions, average="early").layers(1),
            "AVERAGE 'early': got a tower of 1 layer",
        ),
        (
            lambda: default(FusionOptions, center="max"),
            "CENTER 'max', CENTER_SCALE: got 1.0, which cuts every entry",
        ),
        (
            lambda: default(FusionOptions, center="max", center_scale=1.5),
            "got 1.5, which cuts every entry",
        ),
        (
            lambda: default(FusionOptions, center_scale=float("nan")),
            "CENTER_SCALE: got nan, expected a finite number",
        ),
        (
            lambda: default(FusionOptions, center_scale=-1.0),
            "CENTER_SCALE: got -1.0, expected 0 or more",
        ),
        (
            lambda: window_boxes(12, 12, 6, 14),
            "window stride: got 14, expected 1 to the window's side 6",
        ),
        (lambda: window_boxes(12, 12, 6, 0), "window stride: got 0"),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_layers(visual, images):
    with pytest.raises(ValueError, match=r"layers: got \[6\], expected indices 0 to 5"):
        encode_layers(visual, images, default(FusionOptions), [6])
    with pytest.raises(ValueError, match="embeds the last layer alone"):
        encode_layers(visual, images, default(FusionOptions, "clip"), [4, 5])


def test_the_best_synonym_of_a_class_counts():
    """A class of several embeddings has its best one's logit, and only that one has a share of the
    softmax.
    """
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = class_probabilities(logits, 3, torch.tensor([0, 0, 1, 2, 2]))
    best = torch.stack(
        [
            logits[..., :2].amax(-1),
            logits[..., 2],
            logits[..., 3:5].amax(-1),
            *logits[..., 5:].unbind(-1),
        ],
        -1,
    )
    torch.testing.assert_close(found, best.softmax(-1)[..., :3])
    torch.testing.assert_close(class_probabilities(logits, 3, None), logits.softmax(-1)[..., :3])


def test_a_second_identical_embedding_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(4, 30, 8, generator=generator), dim=-1)
    classes, negatives = (
        F.normalize(torch.randn(n, 8, generator=generator), dim=-1) for n in (3, 2)
    )
    affinity = torch.rand(30, 30, generator=generator).softmax(-1)
    windows = Windows(
        features.transpose(0, 1).unflatten(0, (2, 15)).transpose(1, 2),
        [(0, 0, 3, 5), (3, 0, 3, 5)],
        affinity,
    )
    image, twice = Embedded(features, affinity, (6, 5), windows), torch.tensor([0, 0, 1, 2])
    plain = coarse_scores(
        image, with_negatives(classes, negatives, mean=True), 3, default(ScoreOptions, 10.0)
    )
    text = with_negatives(torch.cat([classes[:1], classes]), negatives, mean=True, class_of=twice)
    torch.testing.assert_close(
        coarse_scores(image, text, 3, default(ScoreOptions, 10.0), twice), plain
    )
