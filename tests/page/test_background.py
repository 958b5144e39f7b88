"""The rules for pixels of no class, against the predictor's own answers."""

from __future__ import annotations

import numpy as np
import pytest
from cliper.postprocess import LabelOptions
from hyperclip.page.background import RULES, Background, threshold_of
from hyperclip.predictor import Predictor
from hyperclip.segmenter import BACKGROUNDS
from hyperclip.tinyscenes.drawing import render_scene
from hyperclip.vocabulary import Vocabulary

from tests.helpers.defaults import default

CLASSES = "red plain circle; blue striped star; green dotted cross, cross"
CONFIG = "configs/quickstart/cliper.yaml"


@pytest.fixture(scope="module", params=[CONFIG, "configs/quickstart/dense_clip.yaml"])
def asked(request):
    predictor = Predictor.from_config(request.param, ["MODEL.DEVICE", "cpu"])
    return predictor, predictor.encode(render_scene("val_seen", 0)[0])


def answer(asked, **options):
    predictor, encoded = asked
    return predictor.answer(encoded, Background(**options).question(CLASSES))


def test_every_rule_has_words():
    assert tuple(RULES) == BACKGROUNDS


def test_no_background_gives_every_pixel_a_class(asked):
    np.testing.assert_array_equal(
        answer(asked, rule="none").labels, asked[0].segment(asked[1], CLASSES).labels
    )
    assert (answer(asked, rule="none").labels >= 0).all()


def test_a_threshold_leaves_out_what_is_below_it(asked):
    own = asked[0].segment(asked[1], CLASSES)
    cut = float(np.median(own.confidence))
    found = answer(asked, rule="threshold", threshold=cut).labels
    assert 0.3 < (found == -1).mean() < 0.7
    np.testing.assert_array_equal(found[found >= 0], own.labels[found >= 0])
    assert (own.confidence[found >= 0] >= cut).all()


def test_words_take_the_pixels_that_fit_them_best(asked):
    whole = asked[0].segment(asked[1], CLASSES + "; grey ground; purple")
    found = answer(asked, rule="words", words="grey ground, purple")
    assert found.names == whole.names[:3] and (found.asked is None or len(found.asked) == 3)
    np.testing.assert_array_equal(found.labels, np.where(whole.labels < 3, whole.labels, -1))
    np.testing.assert_array_equal(found.confidence, whole.confidence)
    assert 0 < (found.labels == -1).mean() < 1


def test_what_is_like_no_class_in_particular(asked):
    found = answer(asked, rule="other")
    expected = asked[0].segment(asked[1], CLASSES, background="other")
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_classes_below_a_threshold_are_left_out(asked):
    own = answer(asked, rule="own")
    best = [own.confidence[own.labels == i].max(initial=0) for i in range(3)]
    cut = float(np.median(best))
    found = answer(asked, rule="own", class_threshold=cut)
    for i in range(3):
        if best[i] < cut - 1e-6:
            assert (found.labels != i).all()
    with pytest.raises(ValueError, match="'none': got a threshold, too"):
        answer(asked, rule="none", class_threshold=0.5)


def test_the_config_s_own_thresholds_hold_until_another_rule_is_chosen():
    predictor = Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    image = predictor.encode(render_scene("val_seen", 0)[0])
    predictor.model.labels = default(LabelOptions, "abstain", 0.3, 0.45, True)
    own = predictor.segment(image, CLASSES).labels
    np.testing.assert_array_equal(answer((predictor, image), rule="own").labels, own)
    assert (own == -1).any()
    free = answer((predictor, image), rule="none").labels
    assert (free >= 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "sky"}, "Background: got 'sky', expected one of"),
        ({"rule": "words", "words": " ; ,"}, "Background words: got none, expected names such as"),
        ({"rule": "threshold", "threshold": float("nan")}, "Background threshold: got nan"),
        ({"rule": "threshold", "threshold": True}, "Background threshold: got True"),
        ({"rule": "threshold", "threshold": "0.5"}, "Background threshold: got '0.5'"),
        ({"threshold": -0.1}, "Background threshold: got -0.1, expected a number from 0 to 2"),
        ({"class_threshold": 2.5}, "Class threshold: got 2.5, expected a number from 0 to 2"),
    ],
)
def test_what_is_no_rule(options, message):
    with pytest.raises(ValueError, match=message):
        Background(**options)


def test_a_word_that_is_also_a_class():
    with pytest.raises(ValueError, match="'cross' is also a class"):
        Background("words", words="wall; cross").question(CLASSES)


@pytest.mark.parametrize("value", ["nan", "inf", "-0.1", "2.5", "x", [0.5], "0,5"])
def test_thresholds_that_are_none(value):
    with pytest.raises(ValueError, match="Class threshold: got .*, expected a number from 0 to 2"):
        threshold_of("Class threshold", value)


def test_thresholds():
    assert (
        threshold_of("x", "") is None
        and threshold_of("x", None) is None
        and threshold_of("x", " ") is None
    )
    assert (threshold_of("x", "0"), threshold_of("x", " 0.25 "), threshold_of("x", 1)) == (
        0.0,
        0.25,
        1.0,
    )


ABSTAIN = [
    "MODEL.DEVICE",
    "cpu",
    "MODEL.CLIPER.PROTOCOL",
    "abstain",
    "MODEL.CLIPER.SCORE_THRESHOLD",
    "0.3",
    "MODEL.CLIPER.BACKGROUND_THRESHOLD",
    "0.45",
    "MODEL.CLIPER.NORMALIZE",
    "True",
]


def test_thresholds_of_the_config_hold_until_they_are_changed():
    predictor = Predictor.from_config(CONFIG, ABSTAIN)
    image, words = (
        predictor.encode(render_scene("val_seen", 0)[0]),
        Vocabulary.from_text(CLASSES, "grey ground"),
    )
    own, cases = (
        predictor.model.labels,
        {
            (None, None): default(LabelOptions, "abstain", 0.3, 0.45, True),
            (0.9, None): default(LabelOptions, "abstain", 0.9, 0.45, True),
            (None, 0.8): default(LabelOptions, "abstain", 0.3, 0.8, True),
            (0.0, 0.0): default(LabelOptions, "abstain", 0.0, 1e-6, True),
        },
    )
    answers = {}
    for (score, pixel), options in cases.items():
        found = answers[score, pixel] = predictor.segment(
            image, words, class_threshold=score, threshold=pixel
        ).labels
        assert predictor.model.labels == own
        predictor.model.labels = options  # as if the config said so
        np.testing.assert_array_equal(found, predictor.segment(image, words).labels)
        predictor.model.labels = own
    assert len({found.tobytes() for found in answers.values()}) >= 3
    assert (answers[None, None] == -1).any() and (answers[0.0, 0.0] == -1).mean() < 0.01


def test_a_system_that_gives_every_pixel_a_class_does_so_until_a_threshold_is_typed():
    predictor = Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    image, words = (
        predictor.encode(render_scene("val_seen", 0)[0]),
        Vocabulary.from_text(CLASSES, "grey ground"),
    )
    own = predictor.segment(image, words)
    assert (own.labels >= 0).all()
    cut = predictor.segment(image, words, threshold=float(np.median(own.confidence)))
    assert 0.4 < (cut.labels == -1).mean() < 0.6
    kept = cut.labels != -1
    np.testing.assert_array_equal(cut.labels[kept], own.labels[kept])
    best = [own.confidence[own.labels == i].max(initial=0) for i in range(3)]
    assert (
        set(np.unique(predictor.segment(image, words, class_threshold=1.99).labels)) == {-1}
        and max(best) < 1.99
    )
