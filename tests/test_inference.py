"""Views and merging: geometry, and the streamed forms against whole score maps."""

from __future__ import annotations

import hyperclip.score_maps
import pytest
import torch
from hyperclip import inference
from hyperclip.head import ViewLogits
from hyperclip.inference import (
    SlidingWindow,
    best_classes,
    leave_out,
    make_views,
    resize,
    score_maps,
)

from reference.inference import merge_views
from tests.helpers.defaults import default


def test_released_window_geometry():
    window = default(SlidingWindow)
    assert window.stride == 256 and window.origins == [(0, 0), (0, 256), (256, 0), (256, 256)]
    image = torch.randn(3, 480, 640, generator=torch.Generator().manual_seed(0))
    square = resize(image[None], (640, 640))
    views = make_views(image, (384, 384), window)
    assert views.shape == (5, 3, 384, 384)
    for view, (y, x) in zip(views, window.origins, strict=False):
        assert torch.equal(view, square[0, :, y : y + 384, x : x + 384])
    assert torch.equal(views[-1:], resize(image[None], (384, 384)))
    # ViT-L: every view is cut at 384 and then resized
    smaller = make_views(image, (336, 336), window)
    assert torch.equal(smaller, resize(views, (336, 336)))
    assert len(make_views(image, (336, 336), default(SlidingWindow, global_view=False))) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((640, 384, 0.999), "stride below one pixel"),
        ((600, 384, 0.333), "do not cover 600"),
        ((640, 700, 0.333), "KERNEL <= SIZE"),
        ((640, 384, 1.0), "OVERLAP < 1"),
    ],
)
def test_windows_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        default(SlidingWindow, *arguments)


def test_windows_are_averaged_where_they_overlap():
    window = default(SlidingWindow, size=6, kernel=4, overlap=0.5, global_view=False)
    logits = torch.randn(4, 2, 4, 4)
    merged = merge_views(logits, window)
    for y in range(6):
        for x in range(6):
            covering = [
                v[:, y - a, x - b]
                for v, (a, b) in zip(logits.sigmoid(), window.origins, strict=True)
                if 0 <= y - a < 4 and 0 <= x - b < 4
            ]
            torch.testing.assert_close(merged[:, y, x], torch.stack(covering).mean(0))


SLIDING = [None, default(SlidingWindow, 12, 8, 0.5), default(SlidingWindow, 12, 8, 0.5, False)]


def views_of(sliding, classes):
    views = 1 if sliding is None else len(sliding.origins) + sliding.global_view
    generator = torch.Generator().manual_seed(0)
    return torch.randn(views, classes, 5, 5, generator=generator, dtype=torch.float64)


@pytest.fixture(params=[1, 3, 100], ids="{} at a time".format)
def step(request, monkeypatch):
    monkeypatch.setattr(inference, "items_at_a_time", lambda *_: request.param)


def check(views, sliding):
    want = resize(merge_views(views.whole(), sliding)[None], (17, 23))[0]
    scores = score_maps(views, sliding, (17, 23))
    torch.testing.assert_close(scores, want, atol=1e-12, rtol=0)
    labels, confidence = best_classes(views, sliding, (17, 23))
    assert torch.equal(labels, scores.argmax(0)) and torch.equal(confidence, scores.amax(0))


@pytest.mark.parametrize("sliding", SLIDING)
def test_streamed_labels_equal_the_argmax_of_all_scores(sliding, step):
    check(ViewLogits(views_of(sliding, 10), 10), sliding)


@pytest.mark.parametrize("sliding", SLIDING)
def test_a_class_costs_nothing_where_it_was_not_kept(sliding, step):
    """Views keep 4 of 30 classes each, among them never the first and the last."""
    logits = views_of(sliding, 4)
    generator = torch.Generator().manual_seed(1)
    kept = torch.stack(
        [torch.randperm(28, generator=generator)[:4].sort().values + 1 for _ in logits]
    )
    check(ViewLogits(logits, 30, kept), sliding)


def test_a_class_scores_what_its_best_prompt_scores(step):
    views, class_of = ViewLogits(views_of(SLIDING[1], 6), 6), torch.tensor([0, 0, 1, 2, 2, 2])
    prompts = score_maps(views, SLIDING[1], (9, 9))
    want = torch.stack([prompts[class_of == k].amax(0) for k in range(3)])
    assert torch.equal(score_maps(views, SLIDING[1], (9, 9), class_of), want)
    assert torch.equal(best_classes(views, SLIDING[1], (9, 9), class_of)[0], want.argmax(0))


def test_ties_go_to_the_lower_class(step):
    assert not best_classes(ViewLogits(torch.zeros(1, 3, 2, 2), 3), None, (2, 2))[0].any()


def test_thresholds_leave_pixels_and_classes_out():
    labels, confidence = torch.tensor([[0, 0, 2, 2]]), torch.tensor([[0.9, 0.2, 0.4, 0.3]])
    assert leave_out(labels, confidence, 0.0, 0.0).tolist() == [[0, 0, 2, 2]]
    assert leave_out(labels, confidence, 0.0, 0.3).tolist() == [[0, -1, 2, 2]]
    # a class by its best pixel
    assert leave_out(labels, confidence, 0.5, 0.0).tolist() == [[0, 0, -1, -1]]
    assert leave_out(labels, confidence, 0.4, 0.35).tolist() == [[0, -1, 2, -1]]
    assert leave_out(labels, confidence, 0.95, 0.0).tolist() == [[-1, -1, -1, -1]]


def test_padding_reproduces_the_released_shift():
    image = torch.ones(3, 40, 64)
    assert torch.equal(make_views(image, (32, 32), None), torch.ones(1, 3, 32, 32))
    assert not make_views(image, (32, 32), None, divisor=32)[..., -1, :].any()


@pytest.mark.parametrize("update", ["_update_in_turn", "_update_at_once"])
def test_updates_keep_the_lower_class_of_equals(update):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 4, (9, 5, 7), generator=generator).float()
    prompts = torch.tensor([0, 2, 3, 7, 8, 11, 12, 13, 20])
    best, labels = torch.full((5, 7), -1.0), torch.zeros(5, 7, dtype=torch.int64)
    for part in (slice(0, 4), slice(4, 9)):
        getattr(hyperclip.score_maps, update)(best, labels, prompts[part], maps[part])
    assert torch.equal(best, maps.amax(0))
    assert torch.equal(labels, prompts[torch.tensor(maps.numpy().argmax(0))])  # first of equals
