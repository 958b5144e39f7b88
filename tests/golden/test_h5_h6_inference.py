"""H5 and H6: sliding-window and whole-image inference from image files, as scores and as streamed
labels.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from hyperclip.config.keys import load_config
from hyperclip.data import SemSegMapper
from hyperclip.inference import SlidingWindow
from hyperclip.vocabulary import Vocabulary
from PIL import Image

from tests.helpers.asking import ask, ask_all, scores_of
from tests.helpers.defaults import default

PICTURES = {"a": (480, 640, 0), "b": (500, 333, 3)}


@pytest.fixture(scope="module")
def arrays(golden):
    return golden("h5_h6_inference.npz")


@pytest.fixture(scope="module")
def vocabulary(golden):
    return Vocabulary.from_names(golden("h_info.json")["vocabulary"])


@pytest.fixture
def model(hyperclip_b):
    yield hyperclip_b
    hyperclip_b.sliding, hyperclip_b.divisor, hyperclip_b.class_chunk = default(SlidingWindow), 0, 0


@pytest.fixture(scope="module")
def records(fake_state, tmp_path_factory):
    """The two images as the test mapper reads them from PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    cfg: CfgNode = load_config("configs/vitb_384_hyperbolic.yaml")
    mapper, mapped = SemSegMapper(cfg, is_train=False), {}
    for name, arguments in PICTURES.items():
        Image.fromarray(fake_state.image(*arguments)).save(folder / f"{name}.png")
        mapped[name] = mapper({"file_name": str(folder / f"{name}.png")})
    return mapped


def check(arrays, key, scores):
    np.testing.assert_allclose(scores[:, ::8, ::8], arrays[f"{key}_every8"], atol=1e-5, rtol=0)
    if f"{key}_mean" in arrays:
        np.testing.assert_allclose(scores.mean((1, 2)), arrays[f"{key}_mean"], atol=1e-5, rtol=0)
    if f"{key}_argmax" in arrays:
        assert (scores.argmax(0).numpy() != arrays[f"{key}_argmax"]).mean() <= 5e-4


@pytest.mark.parametrize("name", PICTURES)
def test_mapper(arrays, fake_state, records, name):
    assert (
        zlib.crc32(fake_state.image(*PICTURES[name]).tobytes()) == arrays[f"{name}_image_crc32"][0]
    )
    image = records[name]["image"]
    np.testing.assert_array_equal(image.shape, arrays[f"{name}_mapped_shape"])
    difference = image[:, ::16, ::16].numpy().astype(int) - arrays[f"{name}_mapped_every16"].astype(
        int
    )
    assert np.abs(difference).max() <= 1  # a grey level of freedom across Pillow versions


@pytest.mark.parametrize("name", PICTURES)
def test_sliding_and_streamed_labels(arrays, records, model, vocabulary, name):
    model.sliding = default(SlidingWindow)
    scores = scores_of(model, records[name], vocabulary)
    check(arrays, f"{name}_sliding", scores)
    model.class_chunk = 7
    result = ask(model, records[name], vocabulary)
    assert (result["sem_seg_labels"] != scores.argmax(0)).float().mean() <= 5e-4
    torch.testing.assert_close(result["sem_seg_confidence"], scores.amax(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", PICTURES)
def test_whole_with_the_released_padding(arrays, records, model, vocabulary, name):
    model.sliding, model.divisor = None, 32
    check(arrays, f"{name}_whole", scores_of(model, records[name], vocabulary))


def test_sliding_of_an_unresized_tensor(arrays, fake_state, model, vocabulary):
    model.sliding = default(SlidingWindow)
    image = torch.from_numpy(fake_state.image(480, 640, 0)).permute(2, 0, 1)
    check(arrays, "a_sliding_unresized", scores_of(model, image, vocabulary))


def test_a_batch_equals_its_images(records, model, vocabulary):
    model.sliding = None
    together = ask_all(model, [records["a"], records["b"]], vocabulary, scores=True)
    for name, result in zip("ab", together, strict=True):
        torch.testing.assert_close(result["sem_seg"], scores_of(model, records[name], vocabulary))
