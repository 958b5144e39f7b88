"""The pictures to try: the same every time, and what their words say."""

from __future__ import annotations

import numpy as np
import pytest
from hyperclip.page.pictures import pictures
from hyperclip.vocabulary import Vocabulary


@pytest.mark.parametrize("picture", pictures(), ids=lambda picture: picture.title)
def test_a_picture_is_the_same_every_time_and_has_words(picture):
    image = picture.draw()
    assert image.dtype == np.uint8 and image.shape[2] == 3 and min(image.shape[:2]) >= 96
    np.testing.assert_array_equal(image, picture.draw())
    assert len(Vocabulary.from_text(picture.words)) >= 2
    assert image.std() > 20  # something is there


def test_what_the_views_show_is_where_it_should_be():
    """Blue above, green in front; orange in the middle, brown below, grey above."""
    lake, oranges = (picture.draw().astype(float) for picture in pictures()[2:])
    sky, grass = lake[:60, :120].mean((0, 1)), lake[-40:].mean((0, 1))
    assert sky[2] > sky[0] + 20 and grass[1] > max(grass[0], grass[2]) + 20
    skin, wood, wall = (
        oranges[rows, columns].mean((0, 1))
        for rows, columns in (
            (slice(200, 250), slice(220, 270)),
            (slice(330, 355), slice(20, 90)),
            (slice(20, 90), slice(20, 460)),
        )
    )
    assert skin[0] > 2.5 * skin[2] and wood[0] > 1.5 * wood[2] and np.ptp(wall) < 30
