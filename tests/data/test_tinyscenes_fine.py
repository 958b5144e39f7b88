"""The world with structured grounds and thin shapes: deterministic, exact, and really thin."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hyperclip.data import registry
from hyperclip.labels import IGNORE
from hyperclip.tinyscenes import drawing, fine

CENTER = np.array([48.0, 48.0])


@pytest.mark.parametrize("split", fine.FINE_SPLITS)
def test_scenes(split):
    image, label = fine.render_fine_scene(split, 3)
    for first, again in zip((image, label), fine.render_fine_scene(split, 3), strict=True):
        np.testing.assert_array_equal(first, again)
    assert image.shape == (96, 96, 3) and image.dtype == np.uint8 and label.shape == (96, 96)
    objects = set(np.unique(label)) - {IGNORE}
    names = drawing.class_names(fine.FINE_SPLITS[split].part)
    assert 1 <= len(objects) <= 5 and max(objects) < len(names)


def test_every_split_has_a_random_stream_of_its_own():
    splits = {**drawing.SPLITS, **fine.FINE_SPLITS}
    assert len({split.stream for split in splits.values()}) == len(splits)
    images = [fine.render_fine_scene(split, 0)[0] for split in fine.FINE_SPLITS]
    assert not any(np.array_equal(images[0], other) for other in images[1:])
    assert not np.array_equal(images[0], fine.render_fine_scene("fine_tune", 1)[0])


@pytest.mark.parametrize("shape", drawing.SHAPES)
def test_thin_shapes(shape):
    """Within the filled shape but for its edge, as wide, and much smaller."""
    whole = drawing.shape_mask(shape, 96, CENTER, 24.0, 20.0)
    thin = fine.thin_mask(shape, 96, CENTER, 24.0, 20.0)
    assert (thin & ~whole).sum() <= 4 and 0.2 < thin.sum() / whole.sum() < 0.75
    for axis in (0, 1):
        widths = [np.ptp(np.nonzero(mask)[axis]) for mask in (thin, whole)]
        assert widths[0] == pytest.approx(widths[1], abs=4)
    hollow = shape in ("circle", "square", "triangle")
    assert thin[48, 48] != hollow


def test_colours_are_where_the_labels_say_and_the_ground_is_grey():
    """How far the channels of a pixel differ, the most for objects of one tone."""
    names = drawing.class_names("seen")
    ground, painted = [], []
    for index in range(12):
        image, label = fine.render_fine_scene("fine_tune", index)
        spread = np.ptp(image.astype(int), axis=2)
        ground.append(spread[label == IGNORE].mean())
        plain = [k for k, name in enumerate(names) if "plain" in name]
        if np.isin(label, plain).sum() > 100:
            painted.append(spread[np.isin(label, plain)].mean())
    assert max(ground) < 25 and min(painted) > 70


@pytest.mark.parametrize("ground", fine.GROUNDS)
def test_grounds_have_a_structure(ground):
    rng = np.random.default_rng(0)
    relief = fine._relief(ground, 96, rng)
    assert relief.shape == (96, 96) and 0.15 < relief.std() < 1 and np.abs(relief).max() < 2
    assert not np.array_equal(relief, fine._relief(ground, 96, rng))


def test_scenes_hold_thin_and_filled_objects_and_several_grounds():
    drawn = []

    def counted(mask_of):
        def draw(*arguments):
            drawn.append(mask_of.__name__)
            return mask_of(*arguments)

        return draw

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fine, "thin_mask", counted(fine.thin_mask))
        patch.setattr(fine, "shape_mask", counted(fine.shape_mask))
        for index in range(30):
            fine.render_fine_scene("fine_seen", index)
    share = drawn.count("thin_mask") / len(drawn)
    assert share == pytest.approx(fine.THIN_SHARE, abs=0.12)


def test_an_unknown_split():
    with pytest.raises(ValueError, match=re.escape("got 'val_seen', expected one of ['fine_seen'")):
        fine.render_fine_scene("val_seen", 0)


@pytest.mark.parametrize("split", fine.FINE_SPLITS)
def test_registered_with_a_ground_that_counts(split):
    spec = registry.find_dataset(f"tiny_{split}")
    names = drawing.class_names(fine.FINE_SPLITS[split].part)
    assert spec.name == f"tinyscenes_{split}" and spec.background == "threshold"
    assert spec.label_names == [*names, "background"] and not spec.benchmark
    assert spec.vocabulary("catseg").background == fine.GROUNDS
    table = spec.layouts[0].label_map.table
    assert table[IGNORE] == len(names) and table[: len(names)].tolist() == list(range(len(names)))


def test_the_registered_splits_of_the_old_world_are_as_before():
    for name, alias, rule in (
        ("tinyscenes_val_seen", "tiny_val_seen", "none"),
        ("tinyscenes_val_seen_background", "tiny_val_seen_b", "threshold"),
        ("tinyscenes_val_unseen_background", "tiny_val_unseen_b", "threshold"),
    ):
        spec = registry.DATASETS[name]
        assert (spec.alias, spec.background) == (alias, rule)
        words = drawing.GROUND if rule == "threshold" else ()
        assert spec.vocabulary("catseg").background == words
