"""The rules of CLIPer's parts on inputs that can be calculated by hand: cuts, ties, means, sizes,
seeds, layers.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cliper.affinity import FuseOptions, StreamedMaps
from cliper.fusion import FusionOptions, encode_layers, fused_maps, proxy_affinity
from cliper.postprocess import (
    ClassMaps,
    LabelOptions,
    filter_maps,
    full_size_maps,
    fuse_scores,
)
from cliper.preprocess import resize_for_clip, target_size
from cliper.refiner import GridRefinement, build_refiner, fuse_options
from hyperclip.clip import load_clip
from hyperclip.config.keys import load_config
from hyperclip.segmenter import label
from PIL import Image

from reference.cliper import GivenMaps
from tests.helpers.defaults import default

CONFIG = "configs/quickstart/cliper.yaml"

# --- attention maps as operators


def test_an_entry_that_equals_the_threshold_stays_and_the_next_smaller_one_goes():
    """Below is cut. The entry is compared after the division by its column's largest plus 1e-5."""
    level = (torch.tensor(0.5) * (1 / (torch.tensor(1.0) + 1e-5))).item()
    below = np.nextafter(np.float32(0.5), np.float32(0)).item()
    for entry, stays in ((0.5, True), (below, False)):
        maps = torch.tensor([[[1.0, entry], [0.0, 1.0]]])
        result = GivenMaps(maps, (1, 2)).apply(torch.eye(2), default(FuseOptions, threshold=level))
        assert (result[0, 1] > 0) == stays


def test_a_threshold_of_zero_cuts_nothing_and_of_one_almost_everything():
    maps = torch.tensor([[[0.9, 0.1], [0.3, 0.7]]])
    kept = GivenMaps(maps, (1, 2)).apply(torch.eye(2), default(FuseOptions, threshold=0.0))
    scaled = maps[0] / (maps[0].amax(0) + 1e-5)
    torch.testing.assert_close(kept, scaled / (scaled.sum(1, keepdim=True) + 1e-5))
    assert (
        not GivenMaps(maps, (1, 2)).apply(torch.eye(2), default(FuseOptions, threshold=1.0)).any()
    )  # 1 / (1 + 1e-5) is below 1


def test_every_map_has_its_scale():
    generator = torch.Generator().manual_seed(0)
    queries, keys = ([torch.randn(6, 4, generator=generator) for _ in range(3)] for _ in range(2))
    scales = [0.1, 1.0, 3.0]
    streamed = StreamedMaps(queries, keys, scales, (2, 3), tile=12)
    for index in range(3):
        rows = torch.cat([tile for _, tile in streamed.tiles(index)])
        torch.testing.assert_close(
            rows, (scales[index] * queries[index] @ keys[index].T).softmax(dim=1)
        )


def test_which_map_is_selected_and_what_mean_is():
    maps, scores = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.rand(4, 2)
    given = GivenMaps(maps, (2, 2))
    each = [given.apply(scores, default(FuseOptions, "selection", index)) for index in range(3)]
    alone = [
        GivenMaps(maps[k : k + 1], (2, 2)).apply(scores, default(FuseOptions)) for k in range(3)
    ]
    torch.testing.assert_close(each, alone)
    torch.testing.assert_close(
        given.apply(scores, default(FuseOptions, "mean")), torch.stack(each).mean(0)
    )
    for index, expected in ((-1, "0 or more"), (3, "0 to 2")):
        with pytest.raises(ValueError, match=f"INDEX: got {index}, expected {expected}"):
            given.apply(scores, default(FuseOptions, "selection", index))


@pytest.mark.parametrize(
    ("threshold", "legal"), [(0.0, True), (1.0, True), (-0.01, False), (1.01, False)]
)
def test_thresholds_are_shares(threshold, legal):
    if legal:
        assert default(FuseOptions, threshold=threshold).threshold == threshold
    else:
        with pytest.raises(ValueError, match="THRESHOLD: got .*, expected 0 to 1"):
            default(FuseOptions, threshold=threshold)


# --- refiners


@pytest.mark.parametrize(("own", "expected"), [(-1.0, 0.35), (0.0, 0.0), (0.1, 0.1)])
def test_a_negative_threshold_stands_for_that_of_the_classes(own, expected):
    cfg = load_config(
        CONFIG,
        [
            "MODEL.CLIPER.ATTENTION_THRESHOLD",
            "0.35",
            "MODEL.CLIPER.REFINER.THRESHOLD",
            str(own),
            "MODEL.CLIPER.REFINER.FUSION",
            "mean",
            "MODEL.CLIPER.REFINER.INDEX",
            "3",
        ],
    )
    assert fuse_options(cfg) == default(FuseOptions, "mean", 3, expected)


def test_no_refiner_and_a_grid():
    assert build_refiner(load_config(CONFIG, ["MODEL.CLIPER.REFINER.NAME", "none"])) is None
    coarse = torch.arange(6.0).reshape(1, 2, 3)
    seen = []

    def operator(scores):
        seen.append(scores)
        return 2 * scores

    refined = GridRefinement((4, 6), operator)(coarse)
    expected = F.interpolate(coarse[None], size=(4, 6), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(refined, 2 * expected)
    torch.testing.assert_close(seen[0], expected.flatten(1).T)  # row by row of the grid


# --- early-layer fusion


@pytest.mark.parametrize(
    ("center", "scale"),
    [("mean", 1.0), ("mean", 0.5), ("mean", 100.0), ("max", 0.2), ("max", 0.9)],
)
def test_what_is_subtracted_from_each_column(center, scale):
    total = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    """Of a row without a positive entry, as with 100 times the mean, nothing is left: it stays 0.
    """
    (fused,) = fused_maps(
        total.clone(), [0], default(FusionOptions, center=center, center_scale=scale)
    )
    symmetric = (total + total.mT) / 2
    level = (
        symmetric.mean(-2, keepdim=True) if center == "mean" else symmetric.amax(-2, keepdim=True)
    )
    cut = (symmetric - scale * level).clamp(min=0)
    torch.testing.assert_close(fused, torch.nan_to_num(cut / cut.sum(-1, keepdim=True)))


@pytest.fixture(scope="module")
def visual():
    return load_clip("configs/quickstart/tiny_clip").model.visual.double().requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    return torch.randn(
        2, 3, 40, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


@pytest.mark.parametrize("residual", [0.0, -1.0, 0.5])
def test_the_residual_is_the_layers_embedding_itself(visual, images, residual):
    """What is added is the embedding before the last block's norm. Identity attention: W_o W_v
    ln(e) + b + residual e.
    """
    options = default(FusionOptions, "identity", residual=residual)
    got, _ = encode_layers(visual, images, options, [1, 5])
    last, grid = visual.transformer.resblocks[-1], (5, 6)
    x = visual.conv1(images).flatten(2).mT
    positions = visual.positional_embedding
    side = int((len(positions) - 1) ** 0.5)
    square = positions[1:].T.reshape(1, -1, side, side)
    resized = F.interpolate(square, size=grid, mode="bilinear", align_corners=False)[0].flatten(1).T
    x = torch.cat([visual.class_embedding.expand(2, 1, -1), x], 1) + torch.cat(
        [positions[:1], resized]
    )
    x, entering = visual.ln_pre(x), []
    for block in visual.transformer.resblocks[:-1]:
        entering.append(block.ln_1(x))
        x = block(x)
    d = x.shape[-1]
    for found, e in zip(got, (entering[1], x), strict=True):
        v = F.linear(
            last.ln_1(e), last.attn.in_proj_weight[2 * d :], last.attn.in_proj_bias[2 * d :]
        )
        out = visual.ln_post(last.attn.out_proj(v) + residual * e) @ visual.proj
        torch.testing.assert_close(
            found, F.normalize(out[:, 1:].float(), dim=-1), atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize("kind", ["vanilla", "q-q", "k-k", "v-v"])
def test_the_last_blocks_own_attentions(visual, images, kind):
    """The map of the last layer, averaged over heads, the class token's row and column cut off."""
    _, affinity = encode_layers(visual, images, default(FusionOptions, kind), [5])
    kept = {}
    handle = visual.transformer.resblocks[-1].ln_1.register_forward_hook(
        lambda m, i, o: kept.setdefault("u", o)
    )
    encode_layers(visual, images, default(FusionOptions, kind), [5])
    handle.remove()
    attn, u = visual.transformer.resblocks[-1].attn, kept["u"]
    q, k, v = (
        x.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
        for x in F.linear(u, attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
    )
    a, b = {"vanilla": (q, k), "q-q": (q, q), "k-k": (k, k), "v-v": (v, v)}[kind]
    expected = (a.float() @ b.float().mT / q.shape[-1] ** 0.5).softmax(-1).mean(1)[:, 1:, 1:]
    torch.testing.assert_close(affinity, expected, atol=1e-5, rtol=1e-4)


def test_proxy_affinities_are_centred_by_the_mean_of_all_pairs():
    features = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0)) + 0.4
    got = proxy_affinity(features, (3, 4))
    for b in range(2):
        unit = F.normalize(features[b].flatten(1).T, dim=-1)
        similarity = unit @ unit.T
        similarity = similarity - similarity.mean()
        torch.testing.assert_close(
            got[b], similarity.masked_fill(similarity < 0, float("-inf")).softmax(1)
        )
    resized = F.interpolate(features, size=(2, 2), mode="bilinear", align_corners=False)
    torch.testing.assert_close(proxy_affinity(features, (2, 2)), proxy_affinity(resized, (2, 2)))


# --- sizes


@pytest.mark.parametrize(
    ("shortest", "patch", "expected"),
    [
        (40, 16, 48),
        (56, 16, 64),
        (39, 16, 32),
        (41, 16, 48),
        (21, 14, 28),
        (35, 14, 42),
        (49, 14, 56),
        (3, 16, 16),
        (8, 16, 16),
    ],
)
def test_sizes_round_half_up(shortest, patch, expected):
    """A tie goes up every time: 2.5 patches become 3, and 3.5 become 4."""
    assert target_size(100, 100, shortest, patch, 9999) == (expected, expected)


def test_sides_are_scaled_together_and_the_longest_is_bounded():
    assert target_size(100, 200, 64, 16, 9999) == (64, 128) and target_size(
        200, 100, 64, 16, 9999
    ) == (128, 64)
    assert target_size(100, 1000, 64, 16, 320) == (32, 320) and target_size(
        1000, 100, 64, 16, 320
    ) == (320, 32)


def test_resizing_is_pillows_bicubic_filter():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 44, 3)).astype(np.uint8)
    got = resize_for_clip(torch.from_numpy(pixels).permute(2, 0, 1), (16, 32))
    expected = np.array(Image.fromarray(pixels).resize((32, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(got.permute(1, 2, 0).numpy(), expected)


# --- labels


def test_a_class_at_the_score_threshold_is_left_out_and_a_pixel_at_the_background_threshold_stays():
    maps, scores = torch.tensor([[[0.5, 0.25]], [[0.5, 0.25]]]), torch.tensor([0.5, 0.75])
    kept = filter_maps(maps, scores, default(LabelOptions, "abstain", 0.5, 0.25))
    assert kept.tolist() == [[[0.0, 0.0]], [[0.5, 0.25]]]
    assert filter_maps(maps, scores, default(LabelOptions, "abstain", 0.5, 0.2500001))[
        1
    ].tolist() == [[0.5, 0.0]]
    assert torch.equal(filter_maps(maps, scores, default(LabelOptions, "argmax", 9.0, 9.0)), maps)


def test_maps_are_normalised_each_by_its_own_range():
    maps = torch.tensor([[[1.0, 3.0, 2.0]], [[0.0, 0.1, 0.2]]])
    scaled = filter_maps(maps, torch.ones(2), default(LabelOptions, normalize=True))
    torch.testing.assert_close(
        scaled, torch.tensor([[[0.0, 1.0, 0.5]], [[0.0, 0.5, 1.0]]]), atol=1e-5, rtol=0
    )


def labels_of(maps, scores, **options):
    class_maps = ClassMaps(maps, scores, default(LabelOptions, **options), maps)
    answer = label(class_maps, maps.shape[1:])
    return answer.labels.tolist(), answer.confidence


def test_pixels_below_the_background_threshold_belong_to_nothing():
    maps, scores = torch.tensor([[[1.0, 0.2, 0.5]], [[0.3, 0.1, 1.0]]]), torch.tensor([1.0, 1.0])
    assert labels_of(maps, scores, background_threshold=0.4)[0] == [[0, -1, 1]]
    assert labels_of(maps, scores, background_threshold=0.4, protocol="argmax")[0] == [[0, 0, 1]]


def test_stages_see_scores_below_the_background_threshold_and_an_answer_does_not():
    maps, scores = torch.tensor([[[1.0, 0.25, 0.5]]]).expand(2, 1, 3), torch.tensor([1.0, 0.5])
    options = default(LabelOptions, score_threshold=0.5, background_threshold=0.25)
    class_maps = ClassMaps(maps, scores, options, maps)
    expected = torch.tensor([[[1.0, 0.25, 0.5]], [[0.0, 0.0, 0.0]]])
    torch.testing.assert_close(class_maps.whole((1, 3)), expected, atol=1e-4, rtol=0)
    confidence = torch.tensor([[0.25, 0.2499, 0.0]])
    assert class_maps.decide(torch.zeros(1, 3).long(), confidence).tolist() == [[0, -1, -1]]
    assert class_maps.cut(confidence).tolist() == [[0.25, 0.0, 0.0]]
    answer = label(class_maps, (1, 3), scores=True)
    assert answer.labels.tolist() == [[0, -1, 0]]  # EPS takes a little of each score
    assert answer.confidence[0, 1] == 0 and torch.equal(answer.scores.amax(0), answer.confidence)


def test_without_a_threshold_the_square_of_what_is_missing_competes():
    """Background where (1 - best)^2 is at least the best: below (3 - sqrt 5) / 2 = 0.381966."""
    maps = torch.tensor([[[1.0, 0.3819, 0.3821, 0.0]]])
    assert labels_of(maps, torch.tensor([1.0]))[0] == [[0, -1, 0, -1]]


def test_ties_go_to_the_lower_class_in_and_across_chunks(monkeypatch):
    maps = torch.tensor([[[1.0, 0.5]]]).expand(4, 1, 2)
    for pixels in (2**26, 1, 4):
        monkeypatch.setattr("cliper.postprocess.CHUNK_PIXELS", pixels)
        assert labels_of(maps, torch.ones(4), protocol="argmax")[0] == [[0, 0]]


def test_each_map_is_scaled_to_its_classs_score(monkeypatch):
    refined = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    scores = torch.tensor([0.3, 1.0, 2.0])
    up = F.interpolate(refined[None], size=(8, 7), mode="bilinear", align_corners=False)[0]
    expected = up / (up.amax((1, 2), keepdim=True) + 1e-5) * scores[:, None, None]
    for pixels, sizes in ((2**26, [3]), (2 * 56, [2, 1]), (1, [1, 1, 1])):
        monkeypatch.setattr("cliper.postprocess.CHUNK_PIXELS", pixels)
        parts = list(full_size_maps(refined, scores, (8, 7), default(LabelOptions, "argmax")))
        assert [len(part) for _, part in parts] == sizes and [start for start, _ in parts] == [
            sum(sizes[:k]) for k in range(len(sizes))
        ]
        torch.testing.assert_close(torch.cat([part for _, part in parts]), expected)
    answer = label(ClassMaps(refined, scores, default(LabelOptions, "argmax"), refined), (8, 7))
    assert torch.equal(answer.labels, expected.argmax(0))
    assert torch.equal(answer.confidence, expected.amax(0))


def test_scores_are_half_refined_and_half_coarse():
    refined, coarse = (
        torch.tensor([[[0.2, 0.8]], [[0.1, 0.0]]]),
        torch.tensor([[[1.0], [0.4]], [[0.5], [0.7]]]),
    )
    torch.testing.assert_close(fuse_scores(refined, coarse), torch.tensor([0.9, 0.4]))
