"""Which labels the loss takes, what it is by its definition, and which classes a training step
samples.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hyperclip.head import choose_classes, in_terms_of, pixel_class_bce, present_classes
from hyperclip.head.loss import check_labels, pixel_cross_entropy, softmax_logits


def sample_classes(target, classes, count, ignore=255):
    """A training step's target in terms of the classes that it samples, and these classes."""
    chosen = choose_classes(present_classes(target, classes, ignore), count)
    return in_terms_of(target, chosen, ignore), chosen


@pytest.mark.parametrize("ignore", [255, 459, -1])
@pytest.mark.parametrize(
    ("label", "legal"), [(0, True), (4, True), (5, False), (-2, False), (254, False)]
)
def test_labels_are_classes_or_ignored(label, legal, ignore):
    target = torch.full((1, 2, 2), ignore)
    target[0, 0, 0] = label
    logits = torch.zeros(1, 5, 2, 2)
    calls = (
        lambda: check_labels(target, 5, ignore),
        lambda: pixel_class_bce(logits, target, ignore),
        lambda: sample_classes(target, 5, 3, ignore),
    )
    for call in calls:
        if legal:
            call()
        else:
            with pytest.raises(
                ValueError,
                match=rf"labels: got \[{label}\], expected 0 to 4 or the ignore value {ignore}",
            ):
                call()


def test_the_message_shows_five_labels():
    with pytest.raises(ValueError, match=r"got \[6, 7, 8, 9, 10\], expected 0 to 4"):
        check_labels(torch.arange(6, 20), 5, 255)


@pytest.mark.parametrize("ignore", [255, 459])
def test_the_definition(ignore):
    """Mean over pixels and classes; ignored pixels are negatives of every class."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 6, generator=generator)
    target = torch.randint(0, 3, (2, 4, 6), generator=generator)
    target[0, :2] = ignore
    one_hot = torch.stack([target == k for k in range(3)], 1).float()
    expected = F.binary_cross_entropy_with_logits(logits, one_hot)
    torch.testing.assert_close(pixel_class_bce(logits, target, ignore), expected)


def test_logits_are_resized_to_the_labels():
    logits = torch.tensor([[[[0.0, 4.0]]]])
    target = torch.zeros(1, 1, 4, dtype=torch.long)
    resized = torch.tensor([0.0, 1.0, 3.0, 4.0])  # bilinear, pixel centres half a pixel inside
    torch.testing.assert_close(pixel_class_bce(logits, target), F.softplus(-resized).mean())


@pytest.mark.parametrize(("count", "size"), [(0, 2), (2, 2), (3, 3), (5, 5), (20, 20), (99, 20)])
def test_how_many_classes_are_sampled(count, size):
    target = torch.tensor([[[3, 255], [19, 3]]])
    renamed, chosen = sample_classes(target, 20, count)
    assert len(chosen) == size and len(set(chosen.tolist())) == size and (chosen.diff() > 0).all()
    assert torch.equal(chosen[renamed[renamed != 255]], target[target != 255])
    assert torch.equal(renamed == 255, target == 255)


def test_sampled_classes_hold_the_present_ones():
    target = torch.tensor([[[3, 255], [9, 3]]])
    renamed, chosen = sample_classes(target, 20, 6)
    assert len(chosen) == 6 and {3, 9} <= set(chosen.tolist()) and (chosen.diff() > 0).all()
    assert (
        torch.equal(chosen[renamed[renamed != 255]], target[target != 255])
        and renamed[0, 0, 1] == 255
    )
    assert sample_classes(target, 20, 1)[1].tolist() == [3, 9]


def test_the_others_are_drawn_at_random():
    target = torch.full((1, 1, 1), 7)
    drawn = {tuple(sample_classes(target, 30, 3)[1].tolist()) for _ in range(20)}
    assert len(drawn) > 5 and all(7 in chosen for chosen in drawn)
    assert {k for chosen in drawn for k in chosen} - set(range(30)) == set()


@pytest.mark.parametrize("ignore", [255, 459])
def test_softmax_over_classes_and_none(ignore):
    """A cell has the label of its central pixel; what is ignored is none of the classes."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 6, generator=generator)
    target = torch.randint(0, 3, (2, 12, 18), generator=generator)
    target[0, :6] = ignore
    expected = []
    for b, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(6)):
        label = target[b, 3 * y + 1, 3 * x + 1]
        own = torch.cat([logits[b, :, y, x], torch.zeros(1)])
        expected.append(own.logsumexp(0) - own[3 if label == ignore else label])
    loss = pixel_cross_entropy(logits, target, ignore)
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    with pytest.raises(ValueError, match=r"labels: got \[3\], expected 0 to 2"):
        pixel_cross_entropy(logits, torch.full_like(target, 3), ignore)


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_sigmoids_that_are_a_softmax(scale):
    logits = scale * torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    with_none = torch.cat([logits, torch.zeros(2, 1, 3, 4)], dim=1)
    scores = softmax_logits(logits).sigmoid()
    torch.testing.assert_close(scores, with_none.softmax(1)[:, :5], atol=1e-6, rtol=1e-4)
    assert softmax_logits(logits).isfinite().all()
    if scale <= 30:  # else several are 0 in float32
        assert torch.equal(scores.argmax(1), logits.argmax(1))
    one = softmax_logits(logits[:, :1])
    torch.testing.assert_close(one.sigmoid(), logits[:, :1].sigmoid(), atol=1e-6, rtol=1e-4)
