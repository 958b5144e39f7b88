"""Attention limited to regions: against the reference, in parts, and through a system."""

from __future__ import annotations

import pytest
import torch
from hyperclip import load_config
from hyperclip.load import load_model
from hyperclip.score_maps import resize
from hyperclip.segmenter import Question
from hyperclip.stages import REGIONS_REGISTRY, Regions, Staged
from hyperclip.stages.region_attention import attend
from hyperclip.stages.regions import in_size
from hyperclip.tinyscenes.drawing import render_scene

from reference import stages as reference

CONFIG, CPU = "configs/quickstart/dense_clip.yaml", ["MODEL.DEVICE", "cpu"]
IMAGE = torch.from_numpy(render_scene("val_seen", 0)[0].transpose(2, 0, 1).copy())


def left_and_right(images):
    """Two regions, and rows of none at the top."""
    found = []
    for image in images:
        regions = torch.zeros(image.shape[1:], dtype=torch.int64)
        regions[:, image.shape[2] // 2 :] = 1
        regions[: image.shape[1] // 4] = -1
        found.append(regions)
    return found


def test_against_the_reference(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    for temperature in (0.05, 0.3, 2.0):
        scores = torch.rand(4, 6, 7, generator=generator)
        features = torch.randn(5, 6, 7, generator=generator)
        regions = torch.randint(-1, 3, (6, 7), generator=generator)
        expected = reference.region_attention(scores, features, regions, temperature)
        found = attend(scores, features, regions, temperature)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(found[:, regions == -1], scores[:, regions == -1])
        monkeypatch.setattr("hyperclip.stages.region_attention.MOST_WEIGHTS", 20)
        torch.testing.assert_close(attend(scores, features, regions, temperature), expected)
        monkeypatch.undo()


def test_a_cell_of_its_own_keeps_its_scores():
    scores, features = torch.rand(3, 4, 5), torch.randn(6, 4, 5)
    own = torch.arange(20).view(4, 5)
    torch.testing.assert_close(attend(scores, features, own, 0.1), scores)


def test_features_and_regions_of_other_grids():
    scores, features = torch.rand(3, 4, 6), torch.randn(6, 2, 3)
    regions = torch.arange(4).view(2, 2).repeat_interleave(10, 0).repeat_interleave(9, 1)
    expected = reference.region_attention(
        scores, resize(features[None], (4, 6))[0], in_size(regions, (4, 6)), 0.2
    )
    torch.testing.assert_close(attend(scores, features, regions, 0.2), expected)


def test_through_a_system():
    assert "left_and_right" not in REGIONS_REGISTRY
    REGIONS_REGISTRY._do_register("left_and_right", lambda cfg: left_and_right)
    try:
        keys = ["TEST.REGIONS.NAME", "left_and_right", "TEST.REGIONS.RULE", "attention"]
        keys += ["TEST.REGIONS.TEMPERATURE", 0.25]
        staged = load_model(load_config(CONFIG, [*CPU, *keys]))
    finally:
        del REGIONS_REGISTRY._obj_map["left_and_right"]
    assert isinstance(staged, Staged)
    system, question = staged.system, Question.of("red circle; blue star", scores=True)
    encoded = staged.encode([IMAGE])[0]
    maps = system.score(encoded.encoded, question, (96, 96))
    features, coarse = system.features(encoded.encoded), maps.coarse()
    cells = in_size(left_and_right([IMAGE])[0], coarse.shape[1:])
    grid = resize(features[None], coarse.shape[1:])[0]
    expected = reference.region_attention(coarse, grid, cells, 0.25)
    found = staged.score(encoded, question, (96, 96)).coarse()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, coarse)
    settings = staged.describe().settings["stages"]["Regions"]
    assert settings == {"name": "left_and_right", "rule": "attention", "temperature": 0.25}


def test_unknown_rules():
    with pytest.raises(ValueError, match=r"got 'sum', expected one of \['attention', 'maj"):
        Regions(left_and_right, "sum")
    with pytest.raises(ValueError, match=r"TEST.REGIONS.TEMPERATURE: got 0.0, expected 1e-06"):
        Regions(left_and_right, "attention")
