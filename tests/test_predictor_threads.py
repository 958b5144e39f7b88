"""One predictor, several threads: each gets the answer for its own image, whatever the others ask
meanwhile.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from cliper.diffusion import run_until
from detectron2.modeling import build_model
from hyperclip.config.keys import load_config
from hyperclip.predictor import Predictor
from hyperclip.segmenter import Description, Segmentation, Segmenter
from hyperclip.vocabulary import Vocabulary

SYSTEMS = {
    "hyperclip": "configs/quickstart/hyperclip.yaml",
    "cliper": "configs/quickstart/cliper.yaml",
}
WORDS = (
    "red plain circle; blue striped star",
    "green dotted cross; yellow plain square; cyan striped star",
    "magenta plain star; red dotted circle",
    "blue plain cross; green plain square; red striped square",
)
COLORS = ((220, 30, 30), (30, 60, 220), (30, 180, 40), (230, 220, 40))
SIZE = (96, 96)


def picture(k):
    """A scene of its own for thread ``k``, all of them of the same size so that mixed answers have
    no other shape.
    """
    image = np.random.default_rng(k).integers(90, 130, (*SIZE, 3)).astype(np.uint8)
    image[8 + 12 * k : 44 + 12 * k, 20 : 50 + 8 * k] = COLORS[k]
    return image


@pytest.fixture(scope="module", params=list(SYSTEMS))
def model(request):
    torch.manual_seed(0)
    return build_model(load_config(SYSTEMS[request.param], ["MODEL.DEVICE", "cpu"])).eval()


@pytest.fixture(autouse=True)
def _switch_often():
    """Let threads take turns every 0.1 ms rather than every 5 ms."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def together(function, count=4):
    """``[function(0), ...]``, run in as many threads that begin at the same moment."""
    begin = threading.Barrier(count)

    def run(k):
        begin.wait()
        return function(k)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def alone(predictor, k):
    predictor.set_image(picture(k))
    return predictor.predict(WORDS[k])


def check(answers, expected):
    for answer, own in zip(answers, expected, strict=True):
        assert answer.names == own.names
        np.testing.assert_allclose(answer.confidence, own.confidence, atol=1e-5)
        assert (answer.labels != own.labels).mean() < 1e-3


def test_four_threads_with_an_image_each(model):
    predictor = Predictor(model, shortest=0)
    expected = [alone(predictor, k) for k in range(4)]
    assert len({answer.confidence.tobytes() for answer in expected}) == 4

    all_set = threading.Barrier(4)

    def ask(k):
        predictor.set_image(picture(k))
        all_set.wait()
        first = predictor.predict(WORDS[k])
        return first, [alone(predictor, k) for _ in range(2)][-1]

    answers = together(ask)
    for k in range(2):
        check([pair[k] for pair in answers], expected)


def test_two_predictors_of_one_model(model):
    predictors = [Predictor(model, shortest=0) for _ in range(4)]
    expected = [alone(predictors[0], k) for k in range(4)]
    check(together(lambda k: alone(predictors[k], k)), expected)


def test_encoded_images_go_from_thread_to_thread(model):
    predictor = Predictor(model, shortest=0)
    expected = [alone(predictor, k) for k in range(4)]
    encoded = together(lambda k: predictor.encode(picture(k)))
    check(together(lambda k: predictor.segment(encoded[3 - k], WORDS[3 - k])), expected[::-1])


def test_the_model_is_used_by_one_thread_at_a_time():
    class Counting(Segmenter):
        users = most = 0

        def work(self):
            self.users += 1
            self.most = max(self.most, self.users)
            threading.Event().wait(0.02)
            self.users -= 1

        def encode(self, images):
            self.work()
            return images

        def segment(self, encoded, question, size):
            self.work()
            value = encoded[0, 0, 0].float()
            return Segmentation(torch.zeros(size, dtype=torch.int64), value.expand(size))

        def describe(self, dataset=()):
            return Description("Counting")

    model = Counting()
    predictors = [Predictor(model, shortest=0), Predictor(model, shortest=0)]

    def ask(k):
        predictors[k % 2].set_image(np.full((5 + k, 7, 3), 10 * k, np.uint8))
        return predictors[k % 2].predict("cat")

    for k, answer in enumerate(together(ask)):
        assert answer.labels.shape == (5 + k, 7) and (answer.confidence == 10 * k).all()
    assert model.most == 1


def test_a_thread_without_an_image_is_told_so(model):
    predictor = Predictor(model, shortest=0)
    predictor.set_image(picture(0))
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(RuntimeError, match="no image yet in this thread"),
    ):
        pool.submit(predictor.predict, "cat").result()
    assert predictor.predict("cat").labels.shape == SIZE


def test_the_diffusion_model_s_hooks_belong_to_the_thread_that_set_them():
    """The model alone, without a predictor's lock."""
    attention = (
        build_model(load_config(SYSTEMS["cliper"], ["MODEL.DEVICE", "cpu"]))
        .eval()
        .refiner.attention
    )
    images = [torch.from_numpy(picture(k)).permute(2, 0, 1) for k in range(4)]
    expected = [attention([image])[0].queries for image in images]

    def ask(k):
        for _ in range(5):
            queries = attention([images[k]])[0].queries
        return queries

    for found, own in zip(together(ask), expected, strict=True):
        for a, b in zip(found, own, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_call_from_elsewhere_neither_ends_nor_feeds_a_run():
    first, last = torch.nn.Identity(), torch.nn.Identity()
    other_saw = []

    def run():
        first(torch.zeros(1))
        thread = threading.Thread(
            target=lambda: other_saw.append((first(torch.ones(1)), last(torch.ones(1))))
        )
        thread.start()
        thread.join()
        last(torch.zeros(1))
        raise AssertionError("the run goes on after the last output")

    assert [x.item() for x in run_until(run, [first, last])] == [0, 0] and len(other_saw) == 1
    assert not first._forward_hooks and not last._forward_hooks


def test_vocabularies_do_not_meet(model):
    """More vocabularies at a time than the text cache keeps."""
    predictor = Predictor(model, shortest=0)
    encoded = predictor.encode(picture(0))
    texts = [f"red plain circle; thing number {k}" for k in range(12)]
    expected = [predictor.segment(encoded, text) for text in texts]
    answers = together(
        lambda k: [predictor.segment(encoded, Vocabulary.from_text(text)) for text in texts[k::4]]
    )
    for k, found in enumerate(answers):
        check(found, expected[k::4])
