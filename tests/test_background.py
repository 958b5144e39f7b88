"""Which pixels belong to none of the classes: every rule, of both systems and of a foreign one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from hyperclip import Predictor, load_config
from hyperclip.labels import NO_CLASS
from hyperclip.segmenter import BACKGROUNDS, Description, Question, Segmentation, Segmenter
from hyperclip.tinyscenes.drawing import render_scene
from hyperclip.vocabulary import Vocabulary

SCENE = render_scene("val_seen", 0)[0]
WORDS = "red plain circle; blue striped star; green dotted cross"
MORE = "yellow plain square; grey ground"
CONFIGS = ["hyperclip", "cliper_fusion", "dense_clip"]


@pytest.fixture(scope="module", params=CONFIGS)
def predictor(request):
    """HyperCLIP with a random head."""
    cfg = load_config(f"configs/quickstart/{request.param}.yaml", ["MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    return Predictor(build_model(cfg).eval())


@pytest.fixture(scope="module")
def encoded(predictor):
    return predictor.encode(SCENE)


def folded(labels):
    return np.where(labels < 3, labels, NO_CLASS)


def test_none_gives_every_pixel_a_class(predictor, encoded):
    prediction = predictor.segment(encoded, WORDS, background="none")
    assert prediction.labels.min() >= 0


def test_words_are_asked_like_classes_and_folded(predictor, encoded):
    """Given as negatives, in a vocabulary, or asked by hand."""
    by_hand = predictor.segment(encoded, WORDS + ";" + MORE, background="none")
    assert (by_hand.labels > 2).any()
    vocabulary = replace(Vocabulary.from_text(WORDS), background=tuple(MORE.split("; ")))
    for answer in (
        predictor.segment(encoded, WORDS, negatives=MORE),
        predictor.segment(encoded, WORDS, negatives=MORE.replace(";", "\n"), background="words"),
        predictor.segment(encoded, vocabulary, background="words"),
    ):
        np.testing.assert_array_equal(answer.labels, folded(by_hand.labels))
        np.testing.assert_array_equal(answer.confidence, by_hand.confidence)
        assert answer.names == WORDS.split("; ")


def test_a_threshold_cuts_what_words_leave(predictor, encoded):
    words = predictor.segment(encoded, WORDS, negatives=MORE)
    cut = float(np.median(words.confidence))
    answer = predictor.segment(encoded, WORDS, negatives=MORE, threshold=cut)
    kept = words.confidence >= cut
    assert (answer.labels[~kept] == NO_CLASS).all()
    assert (answer.labels >= 0).sum() < (words.labels >= 0).sum()


class Cosine(Segmenter):
    """The cosine of given pixels (H, W, C) and names (T, C), which are unit vectors."""

    def __init__(self, clip, text):
        super().__init__()
        self.clip, self.text = clip, text

    def encode(self, images):
        return list(images)

    def segment(self, encoded, question, size):
        vocabulary = question.vocabulary
        text, class_of = self.text(self.clip, vocabulary), self.class_of(vocabulary)
        scores = encoded @ text.T
        if class_of is not None:
            best = scores.new_full((*size, int(class_of[-1]) + 1), -1.0)
            scores = best.scatter_reduce(2, class_of.expand_as(scores), scores, "amax")
        confidence, labels = scores.max(-1)
        return Segmentation(labels, confidence, scores.permute(2, 0, 1))

    def describe(self, dataset=()):
        return Description("Cosine")


@torch.no_grad()
@pytest.mark.parametrize("rule", ["first", "mean", "max"])
def test_other_is_the_mean_of_all_classes(rule):
    """Against the mean by hand; every class weighs the same, however many synonyms it has."""
    options = ["MODEL.DEVICE", "cpu", "MODEL.SYNONYMS", rule]
    clip = Predictor.from_config("configs/quickstart/dense_clip.yaml", options).model
    system = Cosine(clip.clip, clip.text)
    vocabulary = Vocabulary((("red circle", "red dot", "round"), ("blue star",), ("cross", "x")))
    text = clip.text(clip.clip, vocabulary)
    owners = clip.text.class_of(vocabulary) or [0, 1, 2]
    classes = [text[[k for k, own in enumerate(owners) if own == c]] for c in range(3)]
    mean = torch.stack([rows.mean(0) for rows in classes]).mean(0)
    generator = torch.Generator().manual_seed(0)
    pixels = text.mean(0) + 0.3 * torch.randn(9, 7, text.shape[1], generator=generator)
    answer = system.answer(pixels, Question(vocabulary, "other", scores=True), (9, 7))
    scores = torch.stack([(pixels @ rows.T).amax(-1) for rows in classes])
    none = pixels @ (mean / mean.norm()) > scores.amax(0)
    assert 5 < none.sum() < 58
    assert torch.equal(answer.labels, torch.where(none, NO_CLASS, scores.argmax(0)))
    torch.testing.assert_close(answer.scores, scores)


def test_other_gives_no_class_of_its_own(predictor, encoded):
    labels = predictor.segment(encoded, WORDS, background="other").labels
    assert labels.max() < 3 and labels.shape == SCENE.shape[:2]


def test_every_rule_leaves_the_others_as_they_are(predictor, encoded):
    """Nothing that was asked stays behind on the system."""
    before = predictor.segment(encoded, WORDS)
    for background in BACKGROUNDS:
        negatives = MORE if background == "words" else ""
        predictor.segment(encoded, WORDS, background=background, negatives=negatives)
    after = predictor.segment(encoded, WORDS)
    np.testing.assert_array_equal(before.confidence, after.confidence)
    np.testing.assert_array_equal(before.labels, after.labels)


def test_score_maps_are_those_of_the_classes(predictor, encoded):
    question = replace(Question.of(WORDS, negatives=MORE), scores=True)
    answer = predictor.model.answer(encoded.encoded, question, encoded.size)
    assert answer.scores.shape == (3, *encoded.size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"background": "sky"}, r"background: got 'sky', expected one of \['own', 'none',"),
        ({"background": "none", "threshold": 0.5}, "'none': got a threshold, too"),
        ({"background": "words"}, "'words': vocabulary 'custom' has no background words"),
        ({"background": "words", "negatives": " ; "}, "has no background words"),
        ({"negatives": "blue striped star"}, "'blue striped star' is also a class"),
        ({"negatives": "sky, sky"}, "'sky' is there twice"),
        ({"threshold": -1.0}, "pixel_threshold: got -1.0"),
        ({"threshold": float("nan")}, "pixel_threshold: got nan"),
    ],
)
def test_what_cannot_be_asked(options, message):
    with pytest.raises(ValueError, match=message):
        Question.of(WORDS, **options)


def test_other_needs_two_classes_and_embeddings():
    with pytest.raises(ValueError, match="'other': got the class 'dog' alone"):
        Question.of("dog", background="other")
    system = Cosine(None, None)
    with pytest.raises(ValueError, match="'other': Cosine has no embeddings of names"):
        system.answer(torch.zeros(2, 2, 4), Question.of(WORDS, background="other"), (2, 2))


@pytest.mark.parametrize("background", ["own", "none", "threshold", "other"])
def test_negatives_are_never_ignored(background):
    with pytest.raises(ValueError, match=f"negatives: got sky, wall with background '{background}"):
        Question.of(WORDS, background=background, negatives="sky; wall")


def test_a_list_has_a_text_for_each_class():
    listed = Question.of(["dog, puppy", "road"]).vocabulary
    typed = Question.of("dog, puppy; road").vocabulary
    assert listed == typed and listed.typed and len(Question.of(["dog"]).vocabulary) == 1
    for names, message in (([], "got no class"), (["dog", " "], "class 1 has an empty name")):
        with pytest.raises(ValueError, match=message):
            Question.of(names)
