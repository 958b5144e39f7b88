"""Self-supervised features are those of the patches, on the right grid, and their maps have the
published constants.
"""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from cliper.feature_refiner import FeatureExtractor, mix_alike
from cliper.refiner import FeatureRefiner


def features_of(name, image, longest=1024):
    torch.manual_seed(0)
    extractor = FeatureExtractor(name, "none", longest)
    return extractor, extractor(image)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_features_are_those_of_the_patches_alone(name):
    """Neither the class token nor register tokens are patches."""
    image = torch.randint(
        0, 256, (3, 70, 90), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    extractor, got = features_of(name, image)
    patch = extractor.patch
    size = (70 // patch * patch, 90 // patch * patch)
    x = F.interpolate(
        image[None].float() / 255, size=size, mode="bilinear", align_corners=False, antialias=True
    )
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.no_grad():
        (expected,) = extractor.model.get_intermediate_layers(
            (x - mean) / std, n=1, reshape=True, norm=True
        )
    assert got.shape[1:] == (size[0] // patch, size[1] // patch)
    torch.testing.assert_close(got, expected[0])
    prefix = timm.create_model(name, pretrained=False).num_prefix_tokens
    assert extractor.model.num_prefix_tokens == prefix == (5 if "reg4" in name else 1)


@pytest.mark.parametrize(
    ("size", "longest", "grid"),
    [
        ((70, 90), 1024, (4, 5)),
        ((100, 200), 100, (3, 6)),
        ((200, 100), 100, (6, 3)),
        ((5, 40), 1024, (1, 2)),
    ],
)
def test_grids_of_features(size, longest, grid):
    extractor, got = features_of("vit_tiny_patch16_224", torch.zeros(3, *size), longest=longest)
    assert got.shape[1:] == grid
    (refinement,) = FeatureRefiner(extractor)([torch.zeros(3, *size)])
    assert refinement.grid == grid


def test_feature_maps_have_the_published_constants(monkeypatch):
    features, scores = (
        torch.randn(5, 4, generator=torch.Generator().manual_seed(0)) + 0.5,
        torch.eye(5),
    )
    unit = F.normalize(features, dim=-1)
    for beta, gamma in ((1.2, 3.0), (0.5, 1.0)):
        similarity = (unit @ unit.T - beta * (unit @ unit.T).mean()) * gamma
        expected = similarity.masked_fill(similarity < 0, float("-inf")).softmax(1)
        if beta != 1.2:
            monkeypatch.setattr("cliper.feature_refiner.BETA", beta)
            monkeypatch.setattr("cliper.feature_refiner.GAMMA", gamma)
        torch.testing.assert_close(mix_alike(scores, unit), expected)
