"""What the page says: names as text and never as HTML, numbers as they are, and its pictures."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hyperclip.page import rendering, words
from hyperclip.page.answers import Answer, BestClasses, Request
from hyperclip.prediction import Prediction
from hyperclip.visualization import palette
from hyperclip.vocabulary import Vocabulary
from PIL import Image
from pycocotools import mask as run_lengths

EVIL = '<script>alert("1")</script>'


def answer_of(labels, names, confidence=None, file="a photo.png"):
    labels = np.asarray(labels, np.int32)
    confidence = np.full(labels.shape, 0.5, np.float32) if confidence is None else confidence
    vocabulary = Vocabulary(tuple((name,) for name in names))
    image = np.random.default_rng(0).integers(0, 256, (*labels.shape, 3), np.uint8)
    prediction = Prediction(labels, confidence, list(names))
    return Answer(Request("system", file, "; ".join(names)), image, vocabulary, prediction)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return tmp_path


def test_the_legend_lists_largest_first_with_colour_share_and_confidence():
    labels = [[1, 1, 1, 2], [1, 1, 2, -1]]
    confidence = np.asarray([[0.25, 0.25, 0.25, 1], [0.25, 0.25, 0.5, 0]], np.float32)
    text = words.legend(answer_of(labels, ["absent", "dog", EVIL, "also absent"], confidence))
    rows = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', text)
    plain = [(re.sub("<span.*?</span>", "", name), *cells) for name, *cells in rows]
    assert plain == [
        ("dog", "62.5%", "0.25"),
        ("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;", "25.0%", "0.75"),
        ("no class", "12.5%", ""),
    ]
    shown = re.findall("background:(#......)", text)
    assert shown == ["#" + bytes(palette(4)[k].tolist()).hex() for k in (1, 2)]
    assert "Not found: absent, also absent<" in text and "<script" not in text


def test_the_legend_of_nothing_and_of_many():
    assert "no class</th><td>100.0%" in words.legend(answer_of([[-1, -1]], ["a"]))
    many = words.legend(answer_of([[0]], [f"n{k}" for k in range(1000)]))
    assert many.count("<tr>") == 2 and f"n{words.LISTED} and 979 more" in many


def test_a_pixel_and_its_scores():
    answer = answer_of([[0, 1], [-1, 1]], ["cat", EVIL])
    labels = np.asarray([[[0, 1], [2, 1]], [[1, 0], [0, 2]], [[2, 2], [1, 0]]])
    scores = np.asarray([[[0.9] * 2] * 2, [[0.5] * 2] * 2, [[0.25] * 2] * 2], np.float16)
    best = BestClasses(labels, scores, ["cat", EVIL, "wall"])
    said = words.pixel(answer, best, 0, 1)
    assert "Pixel (0, 1): <strong>no class</strong>" in said
    assert re.findall("<li>(.*?)</li>", said) == [
        "wall (background): 0.900",
        "cat: 0.500",
        "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;: 0.250",
    ]
    assert "grid" not in said and "<strong>&lt;script" in words.pixel(answer, best, 1, 0)
    for place in ((2, 0), (0, 2), (-1, 0)):
        with pytest.raises(ValueError, match="expected 0 to 1 and 0 to 1"):
            words.pixel(answer, best, *place)
    coarse = BestClasses(labels[:, :1, :1], scores[:, :1, :1], best.names)
    assert "Best scores on a grid of 1 x 1:" in words.pixel(answer, coarse, 1, 1)


def test_errors_and_notes_are_text():
    assert words.error(EVIL).count("&lt;") == 2 and 'role="alert"' in words.error("x")
    assert words.notes([]) == "" and "<p>&lt;b&gt;</p>" in words.notes(["<b>"])


def test_lines_on_what_was_asked():
    vocabulary = Vocabulary.from_text("cat, kitten")
    asked = [["cat", "kitten"], ["dog"]]
    prediction = Prediction(np.zeros((1, 1)), np.zeros((1, 1)), ["cat"], asked, "mean")
    first, warning = words.asked_names(vocabulary, prediction)
    assert first == "cat: asked by cat, kitten (mean of these names)"
    assert warning.startswith("Warning: ") and "for 2 classes write" in warning


def test_hidden_classes_and_opacity():
    answer = answer_of(np.repeat([[0, 1]], 400, 0).repeat(200, 1), ["a", "b"])
    full, faint = (rendering.shown(answer, opacity, ()) for opacity in (1.0, 0.0))
    np.testing.assert_array_equal(faint, answer.image)
    np.testing.assert_array_equal(full[0, 0], palette(2)[0])
    hidden = rendering.shown(answer, 1.0, {0})
    np.testing.assert_array_equal(hidden[:, :190], answer.image[:, :190])
    np.testing.assert_array_equal(hidden[0, -1], palette(2)[1])  # in its colour as before
    half = rendering.shown(answer, 0.5, ())[0, 0].astype(int)
    assert np.abs(half - (full[0, 0].astype(int) + answer.image[0, 0]) / 2).max() <= 1


def test_the_map_of_a_pixel():
    """Over the grey image, brightest where most is taken, marked at the pixel."""
    answer = answer_of(np.zeros((64, 96)), ["a"])
    answer.image[:] = 128
    weights = np.zeros((4, 6), np.float32)
    weights[1, 4] = 0.25
    drawn = rendering.attention(answer, weights, (5, 50)).astype(int)
    assert drawn.shape == (256, 384, 3)
    least, most = drawn[8, 8], drawn[96, 288]
    np.testing.assert_allclose(least, 0.35 * 128 + 0.65 * np.asarray([68, 1, 84]), atol=2)
    np.testing.assert_allclose(most, 0.35 * 128 + 0.65 * np.asarray([253, 231, 37]), atol=2)
    bright = np.abs(drawn - most).max(axis=2) <= 2
    assert bright.sum() == 64 * 64 and bright[64:128, 256:320].all()
    np.testing.assert_array_equal(drawn[202, 22], [255] * 3)  # (50 + 0.5) * 4, (5 + 0.5) * 4


@pytest.mark.parametrize("size", [(96, 64), (400, 500), (1, 3000), (1700, 20)])
def test_the_page_s_picture_has_a_fitting_size(size, folder):
    answer = answer_of(np.zeros(size), ["a"])
    shown = rendering.shown(answer, 0.5, ())
    least, most = rendering.SHOWN_SIDE
    assert least <= max(shown.shape[:2]) <= most
    scale = rendering.scale_of(answer)
    assert np.abs(np.asarray(size) * scale - shown.shape[:2]).max() <= 1
    with Image.open(rendering.overlay_file(answer, 0.5, ())) as file:
        assert file.height == max(1, round(size[0] * max(1, scale)))


def test_files_hold_every_pixel(folder):
    labels = np.random.default_rng(1).integers(-1, 3, (37, 53))
    answer = answer_of(labels, ["a", 'b "quoted"', "ü"], file="/x/mein Föto.jpeg")
    files = rendering.save_files(answer, 0.5)
    assert [Path(path).name for path in files] == [
        "mein Föto_overlay.png",
        "mein Föto_labels.png",
        "mein Föto_coco.json",
    ]
    assert all(Path(path).is_relative_to(folder) for path in files)
    found = np.asarray(Image.open(files.labels)).astype(int)
    np.testing.assert_array_equal(np.where(found == 255, -1, found), labels)
    document = json.loads(Path(files.coco).read_text())
    assert document["images"][0]["file_name"] == "mein Föto.jpeg"
    assert [entry["name"] for entry in document["categories"]] == answer.prediction.names
    for entry in document["annotations"]:
        mask = run_lengths.decode(entry["segmentation"]).astype(bool)
        np.testing.assert_array_equal(mask, labels == entry["category_id"] - 1)


def test_a_thousand_classes_have_a_label_map_of_16_bits(folder):
    answer = answer_of([[999, -1]], [f"n{k}" for k in range(1000)])
    found = np.asarray(
        Image.open(io.BytesIO(Path(rendering.save_files(answer, 1).labels).read_bytes()))
    )
    assert found.tolist() == [[999, 65535]]
