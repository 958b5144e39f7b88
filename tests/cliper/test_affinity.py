"""Maps applied without being kept: against the whole maps and their chain, in float32 and for every
tile size.
"""

from __future__ import annotations

import pytest
import torch
from cliper.affinity import FuseOptions, StreamedMaps
from cliper.feature_refiner import mix_alike

from reference import cliper as oracle
from reference import rounding
from reference.cliper import GivenMaps
from tests.helpers.defaults import default


def draw(seed, maps=4, side=12, width=8):
    generator = torch.Generator().manual_seed(seed)
    n = side * side
    queries, keys = (
        [1.5 * torch.randn(n, width, generator=generator) for _ in range(maps)] for _ in range(2)
    )
    return queries, keys, [width**-0.5] * maps, torch.rand(n, 7, generator=generator)


def check_that_no_entry_lies_at_the_cut(maps, queries, keys, threshold):
    """Or the side it falls on would depend on the processor's rounding, and so would the result."""
    width = queries[0].shape[1]
    largest = (
        max((q @ k.T).abs().max().item() for q, k in zip(queries, keys, strict=True)) * width**-0.5
    )
    scaled = maps / (maps.amax(dim=1, keepdim=True) + 1e-5)
    assert not rounding.at_the_cut(
        scaled, threshold, rounding.close_in_float32(largest, width)
    ).any()


@pytest.mark.parametrize("tile", [None, 1, 1000, 12**4])
@pytest.mark.parametrize("fusion", ["SFSA", "mean", "selection"])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("kept", [0, 12**4])
def test_streamed_and_given_equal_the_chain(fusion, threshold, tile, kept, monkeypatch):
    monkeypatch.setattr("cliper.affinity.KEPT", kept)
    queries, keys, scales, scores = draw(0)
    maps = oracle.attention_maps(queries, keys, scales)
    before = maps.clone()
    expected = oracle.refine(maps, scores, threshold, fusion, index=2)
    options = default(FuseOptions, fusion, 2, threshold)
    check_that_no_entry_lies_at_the_cut(maps, queries, keys, threshold)
    for operator in (
        StreamedMaps(queries, keys, scales, (12, 12), tile),
        GivenMaps(maps, (12, 12), tile),
    ):
        torch.testing.assert_close(operator.apply(scores, options), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(maps, before)  # given maps are not changed


def test_maps_stay_in_float32_under_autocast():
    queries, keys, scales, scores = draw(3)
    maps = StreamedMaps(queries, keys, scales, (12, 12))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = maps.apply(scores, default(FuseOptions))
    assert torch.equal(mixed, maps.apply(scores, default(FuseOptions)))


def test_the_order_matters():
    queries, keys, scales, scores = draw(1)
    forward = StreamedMaps(queries, keys, scales, (12, 12)).apply(scores, default(FuseOptions))
    backward = StreamedMaps(queries[::-1], keys[::-1], scales, (12, 12)).apply(
        scores, default(FuseOptions)
    )
    assert (forward - backward).abs().max() > 1e-3


def test_an_entry_at_the_threshold_stays():
    """Below is cut, equal is kept: with column maxima of 1 the entries of this map are what is
    compared.
    """
    level = 0.5 - 1e-5  # what 0.5 becomes when it is divided by 1 + 1e-5 is still above this
    maps = torch.tensor([[[1.0, 0.5], [0.4, 1.0]]])
    scores = torch.eye(2)
    kept = GivenMaps(maps, (1, 2)).apply(scores, default(FuseOptions, threshold=level))
    torch.testing.assert_close(kept, oracle.refine(maps, scores, level))
    assert kept[0, 1] > 0 and kept[1, 0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("chain",), "got 'chain', expected one of"), (("SFSA", 1, 1.5), "got 1.5, expected 0 to 1")],
)
def test_wrong_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        default(FuseOptions, *arguments)


def test_a_map_that_does_not_exist():
    queries, keys, scales, scores = draw(2)
    with pytest.raises(ValueError, match="INDEX: got 4, expected 0 to 3"):
        StreamedMaps(queries, keys, scales, (12, 12)).apply(
            scores, default(FuseOptions, "selection", 4)
        )


@pytest.mark.parametrize("tile", [1, 300, 2**22])
def test_feature_maps_equal_the_whole_map(tile):
    generator = torch.Generator().manual_seed(0)
    features, scores = (
        torch.randn(60, 16, generator=generator) + 0.3,
        torch.rand(60, 5, generator=generator),
    )
    unit = features / features.norm(dim=1, keepdim=True)
    similarity = unit @ unit.T
    similarity = (similarity - 1.2 * similarity.mean()) * 3
    expected = similarity.masked_fill(similarity < 0, float("-inf")).softmax(dim=1) @ scores
    torch.testing.assert_close(mix_alike(scores, unit, tile), expected, atol=1e-6, rtol=1e-5)


def test_feature_maps_of_a_flat_picture():
    """All patches alike: no similarity is above 1.2 times the mean, and still nothing becomes
    nan.
    """
    scores = torch.rand(12, 3)
    torch.testing.assert_close(mix_alike(scores, torch.full((12, 4), 0.5)), scores)
