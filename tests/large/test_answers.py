"""Labels of large images: those of the slow way, whatever part is asked and what is in memory."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import torch
from hyperclip import Predictor
from hyperclip.large import segment_file
from hyperclip.large.segmenting import window_of
from hyperclip.segmenter import Question
from hyperclip.tinyscenes.drawing import render_scene
from PIL import Image
from rasterio.windows import Window

from reference import large as reference
from tests.helpers.large import MAP, NAMES, blobs, cheap, write_map

TRAINED = "configs/quickstart/hyperclip_trained.yaml"
CPU = ["MODEL.DEVICE", "cpu"]
SCENE = "red plain circle; blue striped star; green dotted square"


def labels_of(path):
    with rasterio.open(path) as file:
        return file.read(1)


def segmented(tmp_path, source, name="out.tif", predictor=None, names=NAMES, **options):
    output = tmp_path / name
    segment_file(predictor or cheap(), source, output, names, **{"window": 64, **options})
    return labels_of(output)


@pytest.mark.parametrize(
    ("size", "colors"), [((50, 70), 3), ((10, 9), 1)], ids=["several windows", "less than one"]
)
def test_labels_are_those_of_the_slow_way(tmp_path, size, colors):
    predictor, question = cheap(cells=8), Question.of(NAMES)
    source = write_map(tmp_path / "map.tif", *size)
    labels = segmented(tmp_path, source, predictor=predictor, window=32)
    image = blobs(range(size[0]), range(size[1])).transpose(1, 2, 0)
    row, column = 5_500_000 * 2, -500_000 * 2  # of the origin of the map
    expected = reference.scores(predictor, image, question, 32, -row, column)
    best = expected.topk(2, dim=0)
    sure = (best.values[0] - best.values[1] > 1e-5).numpy()
    assert sure.mean() > 0.99 and len(np.unique(labels)) == colors
    np.testing.assert_array_equal(labels[sure], best.indices[0].numpy()[sure])


def test_an_image_without_a_map_begins_with_a_cell(tmp_path):
    predictor, question = cheap(cells=8), Question.of(NAMES)
    image = blobs(range(40), range(33)).transpose(1, 2, 0)
    Image.fromarray(image).save(tmp_path / "image.png")
    labels = segmented(tmp_path, tmp_path / "image.png", predictor=predictor, window=32)
    expected = reference.scores(predictor, image, question, 32)
    assert (labels == expected.argmax(0).numpy()).mean() > 0.999


def test_extents_and_tiles_make_no_difference(tmp_path):
    source = write_map(tmp_path / "map.tif", 150, 200)
    whole = segmented(tmp_path, source)
    for name, options in {
        "narrow.tif": {"tile": 32},
        "wide.tif": {"tile": 1000},
        "one.tif": {"batch": 1},
    }.items():
        assert (segmented(tmp_path, source, name, **options) == whole).mean() >= 0.999
    for name, (left, top, right, bottom) in {
        "a.tif": (40, 30, 133, 111),
        "b.tif": (81, 0, 200, 92),
    }.items():
        part = segmented(tmp_path, source, name, extent=(left, top, right, bottom), tile=96)
        assert part.shape == (bottom - top, right - left)
        assert (part == whole[top:bottom, left:right]).mean() >= 0.999


def test_files_of_two_parts_of_a_map_agree_where_both_have_neighbours(tmp_path):
    assert shares_of_two_parts(tmp_path, 32, crs="EPSG:32632") >= 0.999
    # each one's lattice begins at its corner
    assert shares_of_two_parts(tmp_path, 32, crs=None) < 0.999


def shares_of_two_parts(tmp_path, window, crs):
    """How many of the labels are the same that two overlapping files have in common, without the
    windows at their borders.
    """
    down, right, labels = 72, 40, []
    for y, x in ((0, 0), (down, right)):
        source = tmp_path / f"part{y}{crs is None}.tif"
        write_map(source, 200, 200, transform=MAP @ MAP.translation(x, y), first=(y, x), crs=crs)
        labels.append(segmented(tmp_path, source, f"out_{source.name}", window=window))
    one, other = labels
    shared = one[down + window : -window, right + window : -window]
    same = other[window : 200 - down - window, window : 200 - right - window]
    assert shared.shape == same.shape == (64, 96)
    return (shared == same).mean()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    image = np.concatenate([render_scene("val_seen", k)[0] for k in range(2)], axis=1)
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    Image.fromarray(image[:, :130]).save(path)
    return path


@pytest.mark.parametrize(
    "options",
    [{}, {"negatives": "background"}, {"background": "other"}, {"threshold": 0.5}],
    ids=["classes", "words", "other", "threshold"],
)
def test_the_trained_model_with_any_background(tmp_path, scene, options):
    predictor = Predictor.from_config(TRAINED, CPU)
    question = Question.of(SCENE, **options)
    segment_file(predictor, scene, tmp_path / "out.tif", question, window=96)
    labels = labels_of(tmp_path / "out.tif")
    image = np.asarray(Image.open(scene))
    whole = reference_labels(predictor, image, question)
    assert (labels == whole).mean() >= 0.999
    assert ((labels == 254).any()) == bool(options)


def test_thresholds_of_cliper_count_for_blended_scores(tmp_path, scene):
    predictor = Predictor.from_config("configs/quickstart/cliper_fusion.yaml", CPU)
    image = np.asarray(Image.open(scene))
    scores = reference.scores(predictor, image, Question.of(SCENE, background="none"), 96)
    best, expected = scores.max(0)
    middle = float(best.median())
    question = Question.of(SCENE, threshold=middle)
    segment_file(predictor, scene, tmp_path / "out.tif", question, window=96)
    labels = labels_of(tmp_path / "out.tif")
    assert (labels == expected.masked_fill(best < middle, 254).numpy()).mean() >= 0.999


def reference_labels(predictor, image, question):
    """The labels of the slow way, as they are stored."""
    asked = Question(predictor.model.with_rest(question).vocabulary)
    scores = reference.scores(predictor, image, asked, 96)
    best, labels = scores.max(0)
    classes = len(question.vocabulary)
    none = labels >= classes
    if question.pixel_threshold:
        none |= best < question.pixel_threshold
    return torch.where(none, 254, labels).numpy()


def test_the_default_window_is_twice_what_clip_sees():
    assert window_of(Predictor.from_config(TRAINED, CPU).model) == 192
    config = "configs/quickstart/cliper_fusion.yaml"
    assert window_of(Predictor.from_config(config, CPU).model) % 2 == 0
    with pytest.raises(ValueError, match="window: Cheap does not say"):
        window_of(cheap().model)


def test_classes_of_more_than_8_bits(tmp_path):
    """More than 254 classes take 16 bits."""
    from tests.helpers.large import COLORS

    names = list(COLORS) + [f"name {k}" for k in range(260)]
    predictor = cheap()
    for name in names[3:]:
        COLORS[name] = (0, 0, 0)
    try:
        source = write_map(tmp_path / "map.tif", 64, 64, nodata=0)
        segment_file(predictor, source, tmp_path / "out.tif", names, window=64)
    finally:
        for name in names[3:]:
            del COLORS[name]
    with rasterio.open(tmp_path / "out.tif") as file:
        assert (file.dtypes[0], file.nodata) == ("uint16", 65535)
        assert json.loads(file.tags()["NAMES"])[-1] == "name 259"
        assert file.read(1, window=Window(0, 0, 64, 64)).max() < 263
