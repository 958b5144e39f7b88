"""An image may be a file, one of Pillow's, an array or a tensor: the answer is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hyperclip import Predictor
from hyperclip.data.given_images import pixels_of
from hyperclip.tinyscenes.drawing import render_scene
from PIL import Image

SCENE = render_scene("val_seen", 0)[0]
WORDS = "red plain circle; blue striped star"
TURNED = 6  # of EXIF: show it turned clockwise


def test_every_kind_gives_the_same_pixels(tmp_path):
    file = tmp_path / "scene.png"
    Image.fromarray(SCENE).save(file)
    tensor = torch.from_numpy(SCENE.copy()).permute(2, 0, 1)
    for image in (SCENE, file, str(file), Image.fromarray(SCENE), tensor, Image.open(file)):
        np.testing.assert_array_equal(pixels_of(image), SCENE)


def test_the_answers_are_the_same(tmp_path):
    predictor = Predictor.from_config("configs/quickstart/dense_clip.yaml", ["MODEL.DEVICE", "cpu"])
    Image.fromarray(SCENE).save(tmp_path / "scene.png")
    answers = []
    for image in (SCENE, tmp_path / "scene.png"):
        predictor.set_image(image)
        answers.append(predictor.predict("red plain circle; blue striped star").confidence)
    np.testing.assert_array_equal(*answers)


def test_images_are_turned_upright(tmp_path):
    """As a file and as Pillow's image."""
    file, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[0x0112] = TURNED
    Image.fromarray(SCENE[:40]).save(file, exif=exif, quality=100)
    for image in (file, Image.open(file)):
        assert pixels_of(image).shape == (96, 40, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_modes_of_pillow(mode):
    got = pixels_of(Image.fromarray(SCENE).convert(mode))
    assert got.shape == SCENE.shape and got.dtype == np.uint8


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (SCENE.astype(np.float32), r"got float32 \(96, 96, 3\), expected uint8 \(H, W, 3\)"),
        (SCENE[..., 0], r"got uint8 \(96, 96\), expected uint8 \(H, W, 3\)"),
        (torch.zeros(3, 4, 4), r"a tensor float32 \(3, 4, 4\), expected uint8 \(3, H, W\)"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"a tensor uint8 \(4, 4, 3\), expected"),
        (Image.new("I;16", (4, 4)), "got Pillow's mode 'I;16', expected 8 bits a channel"),
        (Image.new("F", (4, 4)), "got Pillow's mode 'F', expected 8 bits a channel"),
    ],
)
def test_what_is_no_image(image, message):
    with pytest.raises(ValueError, match=message):
        pixels_of(image)


def test_a_text_file_by_the_name_of_an_image(tmp_path):
    (tmp_path / "a.jpg").write_text("words")
    with pytest.raises(ValueError, match="a.jpg. cannot be read"):
        pixels_of(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match="b.jpg"):
        pixels_of(tmp_path / "b.jpg")


def test_several_images_one_after_the_other():
    """Of different sizes, in batches that do not divide their number, and no more at a time."""
    predictor = Predictor.from_config("configs/quickstart/dense_clip.yaml", ["MODEL.DEVICE", "cpu"])
    images = [render_scene("val_seen", k)[0][: 96 - 8 * k] for k in range(5)]
    taken = []
    answers = predictor(
        (taken.append(k) or image for k, image in enumerate(images)), WORDS, batch_size=2
    )
    assert taken == []
    first = next(answers)
    assert taken == [0, 1]
    for image, answer in zip(images, [first, *answers], strict=True):
        alone = predictor.segment(predictor.encode(image), WORDS)
        np.testing.assert_array_equal(answer.labels, alone.labels)
        np.testing.assert_allclose(answer.confidence, alone.confidence, atol=1e-5)


def test_what_is_wrong_is_said_before_the_first_image():
    predictor = Predictor.from_config("configs/quickstart/dense_clip.yaml", ["MODEL.DEVICE", "cpu"])
    with pytest.raises(ValueError, match="batch_size: got 0, expected a number from 1 on"):
        predictor([SCENE], WORDS, batch_size=0)
    with pytest.raises(ValueError, match="got no class"):
        predictor([SCENE], " ")
    for asked in (
        {"vocabulary": f"red; {'very ' * 90}red"},
        {"vocabulary": "red", "negatives": "x " * 90},
    ):
        with pytest.raises(ValueError, match="tokens"):
            predictor([SCENE], **asked)
