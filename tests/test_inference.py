"""Views and merging: geometry, and the streamed forms against whole score maps."""

from __future__ import annotations

import pytest
import torch
from hyperclip.inference import LabelCollector, ScoreCollector, SlidingWindow, make_views, merge_views, resize


def test_released_window_geometry():
    window = SlidingWindow()
    assert window.stride == 256 and window.origins == [(0, 0), (0, 256), (256, 0), (256, 256)]
    image = torch.randn(3, 480, 640, generator=torch.Generator().manual_seed(0))
    square = resize(image[None], (640, 640))
    views = make_views(image, (384, 384), window)
    assert views.shape == (5, 3, 384, 384)
    for view, (y, x) in zip(views, window.origins, strict=False):
        assert torch.equal(view, square[0, :, y : y + 384, x : x + 384])
    assert torch.equal(views[-1:], resize(image[None], (384, 384)))
    smaller = make_views(image, (336, 336), window)  # ViT-L: every view is cut at 384 and then resized
    assert torch.equal(smaller, resize(views, (336, 336)))
    assert len(make_views(image, (336, 336), SlidingWindow(global_view=False))) == 4


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
        SlidingWindow(*arguments)


def test_windows_are_averaged_where_they_overlap():
    window = SlidingWindow(size=6, kernel=4, overlap=0.5, global_view=False)
    logits = torch.randn(4, 2, 4, 4)
    merged = merge_views(logits, window)
    for y in range(6):
        for x in range(6):
            covering = [v[:, y - a, x - b] for v, (a, b) in zip(logits.sigmoid(), window.origins, strict=True)
                        if 0 <= y - a < 4 and 0 <= x - b < 4]  # fmt: skip
            torch.testing.assert_close(merged[:, y, x], torch.stack(covering).mean(0))


def collect(collector, chunks):
    for classes, logits in chunks:
        collector.add(classes, logits)
    return collector.result()


@pytest.mark.parametrize("sliding", [None, SlidingWindow(12, 8, 0.5), SlidingWindow(12, 8, 0.5, False)])
@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_streamed_labels_equal_the_argmax_of_all_scores(sliding, chunk):
    views = 1 if sliding is None else len(sliding.origins) + sliding.global_view
    logits = torch.randn(views, 10, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chunks = [(torch.arange(i, min(i + chunk, 10)), logits[:, i : i + chunk]) for i in range(0, 10, chunk)]
    scores = collect(ScoreCollector(sliding, (17, 23), 10), chunks)["sem_seg"]
    torch.testing.assert_close(scores, resize(merge_views(logits, sliding)[None], (17, 23))[0], atol=1e-12, rtol=0)
    result = collect(LabelCollector(sliding, (17, 23)), chunks)
    assert torch.equal(result["sem_seg_labels"], scores.argmax(0))
    assert torch.equal(result["sem_seg_confidence"], scores.amax(0))


def test_ties_go_to_the_lower_class():
    chunks = [(torch.tensor([i]), torch.zeros(1, 1, 2, 2)) for i in range(3)]
    assert not collect(LabelCollector(None, (2, 2)), chunks)["sem_seg_labels"].any()


def test_padding_reproduces_the_released_shift():
    image = torch.ones(3, 40, 64)
    assert torch.equal(make_views(image, (32, 32), None), torch.ones(1, 3, 32, 32))
    assert not make_views(image, (32, 32), None, divisor=32)[..., -1, :].any()
