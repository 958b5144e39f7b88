"""C1 and C2: resizing, text, fused attention, features, class scores and sliding windows of the
released CLIPer.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from cliper.fusion import FusionOptions, encode_layers
from cliper.preprocess import resize_for_clip, target_size
from cliper.scores import Embedded, ScoreOptions, coarse_scores, with_negatives
from cliper.windows import Windows, merge_affinities, window_boxes
from hyperclip.clip import CLIP_MEAN, CLIP_STD, TextEmbedder
from hyperclip.vocabulary import Vocabulary, prompt_templates

from reference.rounding import coarse_bounds
from tests.helpers.defaults import default

LONGEST = 2560
MODELS = {"b16": ("ViT-B/16", 16), "l14": ("ViT-L/14", 14)}


def to_input(image, size):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (resize_for_clip(image, size).float() - mean) / std


def test_preprocessing(golden, fake_state):
    """C1: within one grey level (0.015), which is what Pillow's versions differ by."""
    recorded, sizes = golden("c1_preprocess.npz"), golden("c1_sizes.json")
    assert len(sizes) == 10
    for key, shape in sizes.items():
        patch, h, w, seed, side = map(
            int, re.fullmatch(r"p(\d+)_(\d+)x(\d+)_seed(\d+)_size(\d+)", key).groups()
        )
        size = target_size(h, w, side, patch, LONGEST)
        assert [3, *size] == shape
        image = torch.from_numpy(fake_state.image(h, w, seed)).permute(2, 0, 1)
        difference = np.abs(to_input(image, size)[:, ::16, ::16].numpy() - recorded[key])
        assert difference.max() < 0.016 and (difference > 1e-6).mean() < 0.01


class Case:
    """One backbone with C2's image."""

    def __init__(self, name, golden, fake_state, clip_from_file):
        arch, self.patch = MODELS[name]
        self.recorded, self.info = golden(f"c2_cliper_{name}.npz"), golden("c2_info.json")
        self.loaded = clip_from_file(arch)
        self.visual = self.loaded.model.visual
        image = torch.from_numpy(fake_state.image(480, 640, 0)).permute(2, 0, 1)
        size = target_size(480, 640, 336, self.patch, LONGEST)
        self.grid = (size[0] // self.patch, size[1] // self.patch)
        self.x = to_input(image, size)
        self.layers = list(range(len(self.visual.transformer.resblocks)))
        self.text = with_negatives(
            *(torch.from_numpy(self.recorded[k]) for k in ("fg_text", "bg_text")), mean=True
        )
        self.cache = {}

    @torch.no_grad()
    def embed(self, options, layers, crop=0):
        key = (options, tuple(layers), crop)
        if key not in self.cache:
            features, affinity = encode_layers(self.visual, self.x[None], options, layers)
            windows = self.windows(options, layers, crop) if crop else None
            self.cache[key] = Embedded(features[:, 0], affinity[0], self.grid, windows)
        return self.cache[key]

    def windows(self, options, layers, crop):
        p, boxes = self.patch, window_boxes(*self.grid, crop // self.patch, 112 // self.patch)
        crops = torch.stack(
            [self.x[:, t * p : (t + h) * p, left * p : (left + w) * p] for t, left, h, w in boxes]
        )
        features, affinities = encode_layers(self.visual, crops, options, layers)
        return Windows(
            features.transpose(0, 1), boxes, merge_affinities(affinities, boxes, self.grid)
        )


@pytest.fixture(scope="module", params=MODELS)
def case(request, golden, fake_state, clip_from_file):
    return Case(request.param, golden, fake_state, clip_from_file)


def test_text(case):
    text = TextEmbedder(case.loaded.tokenizer, prompt_templates("scene"), "first")
    for key in ("fg", "bg"):
        vocabulary = Vocabulary(tuple((name,) for name in case.info[key]))
        with torch.no_grad():
            embeddings = text(case.loaded.model, vocabulary)
        np.testing.assert_allclose(embeddings, case.recorded[f"{key}_text"], atol=2e-5)


def test_features_logits_and_fused_map(case):
    image = case.embed(default(FusionOptions), case.layers)
    logits = 100 * image.features @ case.text.T
    np.testing.assert_allclose(
        logits[:, 0::4], case.recorded["class_logits_scale100_every4"], atol=1e-3
    )
    np.testing.assert_allclose(image.affinity[::21, ::3], case.recorded["attn_mean"], atol=1e-6)
    sums = torch.stack([image.affinity.sum(1), image.affinity.sum(0)])
    np.testing.assert_allclose(sums, case.recorded["attn_mean_rowsum_colsum"], atol=1e-5)


@pytest.mark.parametrize(
    ("half", "key", "step"),
    [(False, "features_every", (24, 8)), (True, "features_posemb_fp16_every", (48, 16))],
)
def test_raw_features(case, half, key, step, monkeypatch):
    """The recorded features are not normalised and hold the class token."""
    kept = {}
    monkeypatch.setattr("cliper.fusion.F.normalize", lambda x, dim: kept.setdefault("patches", x))
    with torch.no_grad():
        encode_layers(
            case.visual, case.x[None], default(FusionOptions, half_positions=half), case.layers
        )
    expected = case.recorded[key][:, 1:]  # the class token is row 0
    ours = kept["patches"][:, 0, step[0] - 1 :: step[0], :: step[1]]
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_map_of_each_layer(case, monkeypatch):
    """The map for layer k has had k + 1 Sinkhorn rounds."""
    from cliper import fusion

    kept, original = [], fusion.fused_maps

    def spy(total, rounds, options):
        for one in original(total, rounds, options):
            kept.append(one.mean(dim=1)[0])
            yield one

    monkeypatch.setattr(fusion, "fused_maps", spy)
    with torch.no_grad():
        encode_layers(case.visual, case.x[None], default(FusionOptions), case.layers)
    np.testing.assert_allclose(
        torch.stack(kept)[:, 1::31, 1::31], case.recorded["attn_mean_by_layer"], atol=1e-6
    )


def assert_scores(image, text, options, expected, key):
    """Within 2e-5, apart from what entries may change that lie at the cut, where the processor's
    rounding decides.
    """
    low, high = (x.numpy() for x in coarse_bounds(image, text, 6, options))
    scores = coarse_scores(image, text, 6, options).numpy()
    assert ((low - 2e-5 <= expected) & (expected <= high + 2e-5)).all(), key
    assert ((low <= scores) & (scores <= high)).all() and (high - low > 1e-3).mean() <= 0.01, key


def test_scores(case):
    """Selected layer, logit scale, threshold, layer mean, windows: every recorded combination."""
    pattern = r"seg_layer(-\d)_scale(\d+)_thr([\d.]+)_fuse(\d)_slide(\d+)"
    settings = [
        (key, re.fullmatch(pattern, key).groups())
        for key in case.recorded
        if key.startswith("seg_layer")
    ]
    assert len(settings) >= 20
    for key, (select, scale, threshold, fuse, crop) in settings:
        options = default(
            ScoreOptions,
            float(scale),
            int(select),
            "all" if fuse == "1" else "none",
            attention_threshold=float(threshold),
        )
        image = case.embed(default(FusionOptions), options.layers(len(case.layers)), int(crop))
        assert_scores(image, case.text, options, case.recorded[key], key)


def test_other_attentions(case):
    for key in case.recorded:
        if key.startswith("seg_attn_"):
            image = case.embed(
                default(FusionOptions, attention=key.removeprefix("seg_attn_")), case.layers
            )
            assert_scores(image, case.text, default(ScoreOptions), case.recorded[key], key)
