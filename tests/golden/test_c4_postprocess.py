"""C4: thresholds and background rules, score fusion, and the labels of the whole evaluation."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cliper.affinity import FuseOptions
from cliper.postprocess import ClassMaps, LabelOptions, filter_maps, fuse_scores
from cliper.refiner import GridRefinement
from hyperclip.segmenter import label

from reference.cliper import GivenMaps
from tests.golden.test_c3_refinement import make_logits
from tests.helpers.defaults import default

RULES = [
    (b, c, n) for b in ("0", "0.001", "0.3", "0.6") for c in ("0.0", "0.3", "0.7") for n in (0, 1)
]
SCRIPTS = [
    "bkg0.3_cls0.3_norm0_ign255",
    "bkg0.6_cls0.5_norm1_ign255",
    "bkg0.001_cls0.0_norm0_ign0-255",
    "bkg0_cls0_norm0_ign255",
    "bkg0_cls0.3_norm1_ign0-255",
]


@pytest.fixture(scope="module")
def recorded(golden):
    return {name: torch.from_numpy(array) for name, array in golden("c4_postprocess.npz").items()}


@pytest.mark.parametrize(("background", "score", "normalize"), RULES)
def test_rules(recorded, background, score, normalize):
    options = default(LabelOptions, "abstain", float(score), float(background), bool(normalize))
    maps = filter_maps(recorded["cam"][0], recorded["cls"][0], options)
    best = maps.amax(dim=0)
    valid = maps if float(background) > 0 else torch.cat([(1 - best[None]).square(), maps])
    name = f"bkg{background}_cls{score}_norm{normalize}"
    torch.testing.assert_close(
        valid[:, ::3, ::4], recorded[f"valid_{name}"][0], atol=1e-6, rtol=1e-6
    )
    labels = (
        torch.where(best == 0, 0, maps.argmax(0) + 1) if float(background) > 0 else valid.argmax(0)
    )
    assert (labels == recorded[f"label_{name}"][0]).all()


def test_score_fusion(recorded, fake_state):
    logits = [
        torch.from_numpy(make_logits(fake_state, layer, head, 32))
        for layer in (-4, -6)
        for head in range(5)
    ]
    maps = GivenMaps(torch.stack([x.softmax(dim=1).float() for x in logits]), (32, 32))
    coarse = recorded["fusion_seg"]
    refined = GridRefinement(
        maps.grid, lambda scores: maps.apply(scores, default(FuseOptions, threshold=0.2))
    )(coarse)
    torch.testing.assert_close(refined, recorded["fusion_pred_mask"], atol=2e-6, rtol=0)
    torch.testing.assert_close(
        fuse_scores(refined, coarse), recorded["fusion_final_score"], atol=2e-6, rtol=0
    )
    torch.testing.assert_close(fuse_scores(coarse, coarse), recorded["fusion_none_final_score"])


def label_map(recorded, options):
    """Labels and confidence (50, 70) of the recorded maps and class scores."""
    refined, scores = recorded["fusion_pred_mask"], recorded["fusion_final_score"]
    answer = label(ClassMaps(refined, scores, options, refined), (50, 70))
    return answer.labels, answer.confidence


@pytest.mark.parametrize("name", SCRIPTS)
def test_labels_of_the_whole_evaluation(recorded, name):
    background, score, normalize = re.fullmatch(
        r"bkg([\d.]+)_cls([\d.]+)_norm(\d)_ign.*", name
    ).groups()
    options = default(LabelOptions, "abstain", float(score), float(background), normalize == "1")
    labels, confidence = label_map(recorded, options)
    expected = recorded[f"main_label_{name}"].long() - 1
    assert (labels != expected).float().mean() <= 0.001
    assert ((confidence > 0) | (labels == -1)).all()


def test_chunks_give_the_same_labels(recorded, monkeypatch):
    for options in (
        default(LabelOptions, "abstain", 0.1, 0.2),
        default(LabelOptions, "argmax"),
        default(LabelOptions, "abstain", 0.1, 0.0, True),
    ):
        monkeypatch.setattr("cliper.postprocess.CHUNK_PIXELS", 2**26)
        whole = label_map(recorded, options)
        monkeypatch.setattr("cliper.postprocess.CHUNK_PIXELS", 1)
        for a, b in zip(label_map(recorded, options), whole, strict=True):
            assert torch.equal(a, b)


def test_argmax_never_abstains(recorded):
    refined, scores = recorded["fusion_pred_mask"], recorded["fusion_final_score"]
    labels, _ = label_map(recorded, default(LabelOptions, "argmax", 9.0, 9.0))
    up = F.interpolate(refined[None], (50, 70), mode="bilinear")[0]
    expected = (up / (up.amax((1, 2), keepdim=True) + 1e-5) * scores[:, None, None]).argmax(0)
    assert torch.equal(labels, expected) and len(np.unique(labels)) > 1
