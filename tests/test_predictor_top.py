"""The best classes of each pixel, against the score maps of all classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hyperclip import predictor as module
from hyperclip.predictor import Predictor
from hyperclip.score_maps import best_few, best_of
from hyperclip.segmenter import Question
from hyperclip.tinyscenes.drawing import class_names, render_scene
from hyperclip.vocabulary import Vocabulary

ABSTAIN = ["MODEL.CLIPER.PROTOCOL", "abstain", "MODEL.CLIPER.BACKGROUND_THRESHOLD", 0.9]
WORDS = "; ".join(class_names("seen")[::9])


@pytest.fixture(
    scope="module",
    params=["configs/quickstart/cliper_fusion.yaml", "configs/quickstart/dense_clip.yaml"],
)
def asked(request):
    predictor = Predictor.from_config(request.param, ["MODEL.DEVICE", "cpu"])
    return predictor, predictor.encode(render_scene("val_seen", 3)[0])


def all_scores(predictor, image, words, size=None):
    question = Question(Vocabulary.from_text(words), scores=True)
    return predictor.model.segment(image.encoded, question, size or image.size).scores.numpy()


@pytest.mark.parametrize("words", [WORDS, "red, crimson, scarlet circle; blue star, star; cross"])
def test_they_are_the_largest_of_all_scores(asked, words):
    predictor, image = asked
    labels, scores = predictor.top(image, words)
    everything = all_scores(predictor, image, words)
    assert labels.shape == scores.shape == (3, 96, 96)
    assert (labels.dtype, scores.dtype) == (np.int32, np.float16)
    expected = -np.sort(-everything, axis=0)[:3]
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-6)
    there = np.take_along_axis(everything, labels.astype(int), axis=0)
    np.testing.assert_array_equal(there, expected)
    assert (np.sort(labels, axis=0)[1:] != np.sort(labels, axis=0)[:-1]).all()
    np.testing.assert_array_equal(labels[0], predictor.segment(image, words).labels)


def test_as_many_as_there_are(asked):
    assert asked[0].top(*asked[1:], "cat; dog", 5)[0].shape == (2, 96, 96)
    assert asked[0].top(*asked[1:], "cat; dog", 1)[0].shape == (1, 96, 96)
    for k in (0, -1):
        with pytest.raises(ValueError, match=f"k: got {k}, expected 1 or more"):
            asked[0].top(*asked[1:], "cat; dog", k)


def test_they_are_coarser_where_all_scores_would_be_too_many(asked, monkeypatch):
    predictor, image = asked
    for most, size in ((7 * 48 * 48, (48, 48)), (3, (1, 1))):
        monkeypatch.setattr(module, "MOST_SCORES", most)
        labels, _ = predictor.top(image, WORDS)
        assert labels.shape == (3, *size)
        expected = all_scores(predictor, image, WORDS, size).argmax(axis=0)
        np.testing.assert_array_equal(labels[0], expected)


@pytest.mark.parametrize("count", [1, 3, 16, 17, 24])
def test_of_equals_the_first_comes_first(count):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-3, 4, (24, 30, 40), generator=generator) / 3
    given = scores.clone()
    best, labels = best_few(scores, count)
    expected = np.argsort(-scores.numpy(), axis=0, kind="stable")[:count]
    np.testing.assert_array_equal(labels.numpy(), expected)
    assert torch.equal(best, scores.gather(0, labels)) and torch.equal(scores, given)
    assert torch.equal(labels[0], best_of([(torch.arange(24), scores)])[0])


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ("cliper_fusion", ABSTAIN),
        ("cliper_fusion", ["TEST.PRUNE", 0.9]),
        ("dense_clip", ["TEST.PRUNE", 0.9, "TEST.REGIONS.NAME", "superpixels"]),
    ],
)
def test_the_best_is_what_is_predicted_without_background(config, keys):
    """Also where the system leaves pixels out by itself, and where most names are not asked."""
    file = f"configs/quickstart/{config}.yaml"
    predictor = Predictor.from_config(file, ["MODEL.DEVICE", "cpu", *keys])
    image = predictor.encode(render_scene("val_seen", 3)[0])
    labels, scores = predictor.top(image, WORDS)
    found = predictor.segment(image, WORDS, background="none")
    np.testing.assert_array_equal(labels[0], found.labels)
    np.testing.assert_array_equal(scores[0], found.confidence.astype(np.float16))
