"""From a request to an answer: limits, bad input, what is computed again and what is not."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hyperclip.data import read_image
from hyperclip.page import answers as module
from hyperclip.page.answers import Answers, Limits, Request
from hyperclip.page.background import Background
from hyperclip.page.systems import Offer, Systems
from hyperclip.predictor import Predictor
from hyperclip.tinyscenes.drawing import render_scene
from PIL import Image

from .test_systems import CLASSES, CONFIG, encodings  # noqa: F401

LIMITS = Limits(pixels=1_000_000, bytes=2**20)


@pytest.fixture(scope="module")
def systems():
    own = Offer(CONFIG, ("MODEL.DEVICE", "cpu"))
    bits = Offer(CONFIG, ("MODEL.DEVICE", "cpu", "INPUT.IMAGE_BITS", "12"))
    small = Offer(CONFIG, ("MODEL.DEVICE", "cpu", "INPUT.MAX_PIXELS", "99"))
    return Systems({"own": own, "12 bits": bits, "small": small})


@pytest.fixture
def answers(systems):
    return Answers(systems, LIMITS)


@pytest.fixture
def scene(tmp_path):
    path = tmp_path / "scene.png"
    Image.fromarray(render_scene("val_seen", 0)[0]).save(path)
    return str(path)


def test_new_words_do_not_encode_the_image_again(answers, scene, encodings):  # noqa: F811
    found = [answers.ask(Request("own", scene, words)) for words in (CLASSES, "cross; star")]
    answers.ask(Request("own", scene, CLASSES, Background("words", words="wall")))
    answers.best(found[0].token)
    assert len(encodings) == 1
    own = Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    image = own.encode(scene)
    for answer, words in zip(found, (CLASSES, "cross; star"), strict=True):
        np.testing.assert_array_equal(answer.prediction.labels, own.segment(image, words).labels)


def test_images_are_read_as_the_system_s_config_says(answers, tmp_path):
    """12 bits in 16, which are black without it."""
    grey = render_scene("val_seen", 0)[0].astype(np.uint16)[..., 0] << 4
    Image.fromarray(grey).save(path := tmp_path / "grey.png")
    found = [answers.ask(Request(system, str(path), CLASSES)) for system in ("12 bits", "own")]
    for answer, bits in zip(found, (12, 0), strict=True):
        np.testing.assert_array_equal(answer.image, read_image(path, image_bits=bits))
    assert found[0].image.max() > 8 * found[1].image.max()


def test_images_that_are_too_large_are_refused_before_they_are_decoded(answers, tmp_path):
    Image.new("1", (10_000, 10_000)).save(huge := tmp_path / "huge ü.png")
    with pytest.raises(
        ValueError, match="'huge ü.png': got 10000 x 10000 = 100.0 mega.* most 1. S"
    ):
        answers.check_image("own", str(huge))
    Image.new("L", (12, 9)).save(small := tmp_path / "small.png")
    answers.check_image("own", str(small))
    with pytest.raises(ValueError, match="got 12 x 9 = 0.0 megapixels, expected at most 9.9e-05"):
        answers.check_image("small", str(small))
    with open(heavy := tmp_path / "heavy.png", "wb") as file:
        file.truncate(3 * 2**20)
    with pytest.raises(ValueError, match="'heavy.png': got 3.0 MB, expected at most 1"):
        answers.check_image("own", str(heavy))
    with pytest.raises(ValueError, match="huge ü"):
        answers.ask(Request("own", str(huge), CLASSES))


def test_a_bomb_is_refused(tmp_path):
    """More pixels than Pillow opens."""
    Image.new("1", (20_000, 10_000)).save(path := tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="'bomb.png': .*exceeds limit"):
        Limits(10**10, 2**30).check(str(path))


def test_bad_files_are_named(answers, tmp_path):
    for content in (b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(40)):
        (path := tmp_path / "text.jpg").write_bytes(content)
        answers.check_image("own", str(path))  # the reader says more
        with pytest.raises(ValueError, match="text.jpg' cannot be read"):
            answers.ask(Request("own", str(path), CLASSES))
    with pytest.raises(FileNotFoundError):
        answers.ask(Request("own", str(tmp_path / "gone.png"), CLASSES))


def test_a_thousand_classes(answers, scene, monkeypatch):
    words = "; ".join(f"thing {k}" for k in range(1000))
    answer = answers.ask(Request("own", scene, words))
    assert len(answer.vocabulary) == 1000 and answer.prediction.labels.max() < 1000
    best = answers.best(answer.token)
    assert best.labels.shape == (3, *answer.prediction.labels.shape)
    np.testing.assert_array_equal(best.labels[0], answer.prediction.labels)
    monkeypatch.setattr(module, "MOST_NAMES", 999)
    with pytest.raises(ValueError, match="Classes: got 1000 classes, expected at most 999"):
        answers.ask(Request("own", scene, words))


def test_best_classes_are_those_of_all_scores(answers, scene):
    """Names of the background are among them."""
    background = Background("words", words="grey ground")
    answer = answers.ask(Request("own", scene, CLASSES, background))
    best = answers.best(answer.token)
    assert best.names == [*answer.vocabulary.names, "grey ground"]
    assert (np.diff(best.scores.astype(float), axis=0) <= 0).all()
    folded = np.where(best.labels[0] < 3, best.labels[0], -1)
    np.testing.assert_array_equal(folded, answer.prediction.labels)
    np.testing.assert_allclose(best.scores[0], answer.prediction.confidence, rtol=1e-3)
    assert answers.best(answer.token) is best


def test_what_a_pixel_attends_to(answers, scene):
    """The row of CLIPer's fused map for the patch that the pixel lies in."""
    token = answers.ask(Request("own", scene, CLASSES)).token
    found = answers.attention(token, (95, 8))
    own = Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    affinity, grid = own.model.affinity(own.encode(scene).encoded)
    row, column = 8 * grid[0] // 96, 95 * grid[1] // 96
    np.testing.assert_array_equal(found, affinity[row * grid[1] + column].reshape(grid).numpy())
    for point in ((96, 0), (0, -1)):
        with pytest.raises(ValueError, match="Pixel: got column .*expected 0 to 95 and 0 to 95"):
            answers.attention(token, point)


def test_a_system_without_attention_of_a_pixel_is_named(scene):
    offer = Offer("configs/quickstart/hyperclip_trained.yaml", ("MODEL.DEVICE", "cpu"))
    answers = Answers(Systems({"head": offer}), LIMITS)
    token = answers.ask(Request("head", scene, CLASSES)).token
    with pytest.raises(ValueError, match="got HyperCLIP, whose patches do not .*expected CLIPer"):
        answers.attention(token, (3, 3))


def test_an_answer_is_kept_until_it_is_forgotten(answers, scene):
    answer = answers.ask(Request("own", scene, CLASSES))
    best = weakref.ref(answers.best(answer.token))
    assert answers.find(answer.token) is answer
    kept = weakref.ref(answer)
    answers.forget(answer.token)
    answers.forget("never there")
    with pytest.raises(ValueError, match="no longer kept. Press Segment again"):
        answers.find(answer.token)
    del answer
    gc.collect()
    assert kept() is None and best() is None


def test_tokens_cannot_be_guessed(answers, scene):
    tokens = {answers.ask(Request("own", scene, CLASSES)).token for _ in range(3)}
    assert len(tokens) == 3 and all(len(token) > 20 for token in tokens)


def test_answers_are_bounded_together(systems, scene, monkeypatch):
    one = Answers(systems, LIMITS).ask(Request("own", scene, CLASSES)).nbytes
    assert one == 96 * 96 * (3 + 4 + 4)
    monkeypatch.setattr(module, "ANSWER_BYTES", 3 * one)
    answers = Answers(systems, LIMITS)
    tokens = [answers.ask(Request("own", scene, CLASSES)).token for _ in range(4)]
    with pytest.raises(ValueError):
        answers.find(tokens[0])
    assert [answers.find(token).token for token in tokens[1:]] == tokens[1:]


def test_visitors_at_once_get_their_own(answers, tmp_path):
    own = Predictor.from_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    paths = [tmp_path / f"{k}.png" for k in range(6)]
    for k, path in enumerate(paths):
        Image.fromarray(render_scene("val_seen", k)[0]).save(path)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda p: answers.ask(Request("own", str(p), CLASSES)), paths))
    for path, answer in zip(paths, found, strict=True):
        expected = own.segment(own.encode(path), CLASSES).labels
        np.testing.assert_array_equal(answer.prediction.labels, expected)
