"""C3: refinement with whole maps (the oracle), with given maps row by row, and streamed from
queries and keys.

Results agree to 2e-6 wherever no entry lies at the cut; the few that do may fall on either side by
the processor's rounding, and ``reference/rounding.py`` derives what that can change.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cliper.affinity import FuseOptions, StreamedMaps

from reference import cliper as oracle
from reference import rounding
from reference.cliper import GivenMaps
from tests.helpers.defaults import default

SETTINGS = [(fusion, t) for fusion in ("SFSA", "mean", "selection") for t in (0.1, 0.2, 0.35)]


def make_logits(fake_state, layer, head, side):
    y, x = np.divmod(np.arange(side * side), side)
    distance = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    noise = fake_state.fill(
        f"c3.map.{layer}.{head}.{side * side}", (side * side, side * side), "norm"
    ).astype(np.float64)
    return 30 * (noise - 1) - distance / (2 * (1.5 + head / 4) ** 2)


def make_scores(fake_state, classes):
    noise = fake_state.fill(f"c3.scores.{classes}", (classes, 21, 28), "norm").astype(np.float64)
    y, x = np.mgrid[:21, :28]
    bonus = ((y // 7) * 4 + x // 7) % classes == np.arange(classes)[:, None, None]
    return torch.from_numpy(20 * (noise - 1) + 4 * bonus).softmax(dim=0).float()


def flat(scores, side):
    return F.interpolate(scores[None], (side, side), mode="bilinear").flatten(2)[0].T


@pytest.fixture(scope="module")
def logits(fake_state):
    return [
        torch.from_numpy(make_logits(fake_state, layer, head, 32))
        for layer in (-4, -6)
        for head in range(5)
    ]


@pytest.fixture(scope="module")
def maps(logits):
    return torch.stack([x.softmax(dim=1).float() for x in logits])


CLOSE = rounding.close_in_float32(20.0, 1)
"""Logits are given, not sums; the entries that are not cut have logits up to about 20."""


def doubt_of(maps, scores, threshold, fusion="SFSA"):
    """By how much entries at the cut may move each result (N, K)."""
    chains = (
        [maps]
        if fusion == "SFSA"
        else [maps[1:2]]
        if fusion == "selection"
        else [m[None] for m in maps]
    )
    each = [
        rounding.refinement_doubt(c, scores, torch.zeros_like(scores), threshold, CLOSE)
        for c in chains
    ]
    doubt = torch.stack(each).mean(dim=0)
    assert (doubt > 2e-6).float().mean() <= 0.01  # or the comparison would say too little
    return doubt


def assert_refined(result, expected, doubt, step=1):
    """Results (N, K) against recorded ones (K, side, side) of every ``step``-th row and column."""
    side = round(len(result) ** 0.5)
    ours, allowed = (
        x.T.unflatten(1, (side, side))[:, ::step, ::step] for x in (result, 2e-6 + doubt)
    )
    difference = (ours - torch.from_numpy(expected)).abs()
    assert (difference <= allowed).all(), difference.max()


def streamed(logits, side):
    """Queries and keys whose product is exactly the logits."""
    eye = torch.eye(side * side)
    return StreamedMaps(
        [x.float() for x in logits],
        [eye] * len(logits),
        [1.0] * len(logits),
        (side, side),
        tile=100_000,
    )


def test_inputs_are_the_recorded_ones(golden, fake_state, maps):
    recorded = golden("c3_refinement.npz")
    np.testing.assert_allclose(make_scores(fake_state, 21), recorded["scores"], atol=1e-6)
    checks = torch.stack([maps[i, ::128, ::128] for i in (0, 4, 5, 9)])
    np.testing.assert_allclose(checks, recorded["map_checks"], atol=1e-6)


@pytest.mark.parametrize(("fusion", "threshold"), SETTINGS)
@pytest.mark.parametrize("path", ["oracle", "given", "streamed"])
def test_refinement(golden, fake_state, maps, logits, path, fusion, threshold):
    expected = golden("c3_refinement.npz")[f"{fusion}_thr{threshold}"]
    scores = flat(make_scores(fake_state, 21), 32)
    if path == "oracle":
        result = oracle.refine(maps, scores, threshold, fusion)
    else:
        operator = (
            GivenMaps(maps, (32, 32), tile=100_000) if path == "given" else streamed(logits, 32)
        )
        result = operator.apply(scores, default(FuseOptions, fusion, threshold=threshold))
    assert_refined(result, expected, doubt_of(maps, scores, threshold, fusion))


@pytest.mark.parametrize("path", ["given", "streamed"])
def test_one_layer_and_an_empty_row(golden, fake_state, maps, logits, path):
    recorded, scores, options = (
        golden("c3_refinement.npz"),
        flat(make_scores(fake_state, 21), 32),
        default(FuseOptions),
    )

    def refine(maps, logits):
        return (GivenMaps(maps, (32, 32)) if path == "given" else streamed(logits, 32)).apply(
            scores, options
        )

    alone = refine(maps[5:], logits[5:])
    assert_refined(alone, recorded["SFSA_thr0.2_layer-6_only"], doubt_of(maps[5:], scores, 0.2))
    # a row that nothing of survives is no softmax, so only given maps can hold it
    if path == "given":
        emptied = maps.clone()
        emptied[2, 7] = 1e-4
        result, doubt = refine(emptied, logits), doubt_of(emptied, scores, 0.2)
        assert_refined(result, recorded["SFSA_thr0.2_empty_row"], doubt)


def test_the_real_size(golden, fake_state):
    """4096 tokens, 21 and 150 classes, given and streamed."""
    recorded, options = golden("c3_refinement_4096.npz"), default(FuseOptions)
    logits = [
        torch.from_numpy(make_logits(fake_state, layer, head, 64))
        for layer in (-4, -6)
        for head in range(5)
    ]
    maps = torch.stack([x.softmax(dim=1).float() for x in logits])
    given = GivenMaps(maps, (64, 64))
    scores, more = (flat(make_scores(fake_state, classes), 64) for classes in (21, 150))
    doubt, of_more = doubt_of(maps, torch.cat([scores, more], dim=1), 0.2).split([21, 150], dim=1)
    for operator in (given, streamed(logits, 64)):
        assert_refined(
            operator.apply(scores, options), recorded["SFSA_thr0.2_n4096_every2"], doubt, step=2
        )
    assert_refined(
        given.apply(more, options), recorded["SFSA_thr0.2_n4096_150_every8"], of_more, step=8
    )
