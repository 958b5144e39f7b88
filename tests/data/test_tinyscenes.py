"""The procedural world: deterministic, exact, and its unseen combinations really are unseen."""

from __future__ import annotations

import numpy as np
import pytest
from hyperclip.tinyscenes.drawing import (
    COLORS,
    IGNORE,
    SHAPES,
    SPLITS,
    TEXTURES,
    class_names,
    render_object,
    render_scene,
)


def test_the_parts_share_attributes_but_no_phrase():
    seen, unseen = set(class_names("seen")), set(class_names("unseen"))
    assert len(seen) == 60 and len(unseen) == 30 and not seen & unseen
    assert seen | unseen == set(class_names())
    for attributes in (COLORS, TEXTURES, SHAPES):
        assert all(any(a in name.split() for name in seen) for a in attributes)
    pairs = {
        tuple(name.split()[i] for i in axes) for name in unseen for axes in ((0, 1), (0, 2), (1, 2))
    }
    assert all(any(set(pair) <= set(name.split()) for name in seen) for pair in pairs)


@pytest.mark.parametrize("split", SPLITS)
def test_scenes(split):
    image, label = render_scene(split, 3)
    again, label_again = render_scene(split, 3)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(label, label_again)
    assert image.shape == (96, 96, 3) and image.dtype == np.uint8 and label.shape == (96, 96)
    assert not np.array_equal(image, render_scene(split, 4)[0])
    objects = set(np.unique(label)) - {IGNORE}
    assert 1 <= len(objects) <= 6 and max(objects) < len(class_names(SPLITS[split].part))


def test_masks_are_where_the_colour_is():
    names = class_names("seen")
    for index in range(40):
        image, label = render_scene("train", index)
        for k in set(np.unique(label)) - {IGNORE}:
            color, texture, _ = names[k].split()
            region = image[label == k].astype(float)
            if texture == "plain" and len(region) > 200:
                mean = region.mean(0)
                nearest = min(
                    COLORS,
                    key=lambda c: np.linalg.norm(
                        mean / mean.sum() - np.array(COLORS[c]) / sum(COLORS[c])
                    ),
                )
                assert nearest == color, (index, names[k])


def test_objects_for_pretraining():
    image, phrase = render_object(0, 5)
    assert image.shape == (48, 48, 3) and phrase in class_names()
    np.testing.assert_array_equal(image, render_object(0, 5)[0])
    assert len({render_object(0, i)[1] for i in range(800)}) == 90


def test_unknown_parts_and_splits():
    with pytest.raises(ValueError, match="expected 'seen', 'unseen' or 'all'"):
        class_names("some")
    with pytest.raises(ValueError, match="got 'test'"):
        render_scene("test", 0)
