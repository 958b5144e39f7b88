"""The guided filter: against a regression in every box, and as a stage of any system."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hyperclip import load_config
from hyperclip.load import load_model
from hyperclip.segmenter import Question
from hyperclip.stages import Staged
from hyperclip.stages.guided import Guide, GuidedOptions, GuidedRefiner, box_mean
from hyperclip.vocabulary import Vocabulary

from reference import stages as reference

CPU = torch.device("cpu")


def within(filtered, scores):
    """Each class (H, W) in the range of its scores of before."""
    return torch.stack([f.clamp(s.min(), s.max()) for f, s in zip(filtered, scores, strict=True)])


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("radius", "eps"), [(1, 1e-2), (2, 1e-3), (9, 1e-4)])
def test_against_a_regression_in_every_box(radius, eps):
    guide, scores = random(3, 9, 7), random(2, 9, 7, seed=1)
    found = Guide(guide, radius, eps, 1)(scores)
    expected = reference.guided_filter(guide.double(), scores.double(), radius, eps)
    torch.testing.assert_close(found.double(), within(expected, scores), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("radius", "subsample"), [(4, 2), (6, 3), (1, 4)])
def test_functions_fitted_in_a_smaller_image(radius, subsample):
    image, scores = random(3, 13, 17), random(2, 3, 4, seed=1)
    found = Guide(image, radius, 1e-3, subsample)(scores)
    size = -(-13 // subsample), -(-17 // subsample)
    options = {"mode": "bilinear", "align_corners": False}
    small = F.interpolate(image[None].double(), size=size, antialias=True, **options)[0]
    coarse = F.interpolate(scores[None].double(), size=size, **options)[0]
    boxes = max(1, round(radius / subsample))
    expected = reference.guided_filter(small, coarse, boxes, 1e-3, image.double())
    assert found.shape == (2, 13, 17)
    torch.testing.assert_close(found.double(), within(expected, scores), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("subsample", [1, 3])
def test_no_class_leaves_the_range_of_its_scores(subsample):
    """Scores rise with the light from left to right; what is dark on the right or light on the left
    is beyond all that the functions were fitted to.
    """
    image = torch.linspace(0, 1, 24).expand(3, 24, 24).clone()
    image[:, 3, 20], image[:, 20, 3] = 0, 1
    coarse = torch.tensor([[[0.0, 1.0]], [[-5.0, -4.0]]])
    fine = Guide(image, 4, 1e-4, subsample)(coarse)
    assert fine[0].aminmax() == (0, 1) and fine[1].aminmax() == (-5, -4)


def test_a_smaller_image_changes_little():
    image = torch.zeros(3, 64, 64)
    image[:, :, 29:] = 1
    coarse = random(3, 8, 8)
    whole, fast = Guide(image, 8, 1e-3, 1)(coarse), Guide(image, 8, 1e-3, 4)(coarse)
    plain = F.interpolate(coarse[None], size=(64, 64), mode="bilinear")[0]
    assert (fast - whole).abs().mean() < 0.15 * (plain - whole).abs().mean()


def test_box_means_are_cut_at_the_borders():
    maps = random(2, 5, 6).double()
    found = box_mean(maps, 1)
    torch.testing.assert_close(found[:, 0, 0], maps[:, :2, :2].mean(dim=(1, 2)))
    torch.testing.assert_close(found[:, 2, 3], maps[:, 1:4, 2:5].mean(dim=(1, 2)))
    torch.testing.assert_close(box_mean(maps, 9)[:, 4, 5], maps.mean(dim=(1, 2)))


def test_one_colour_leaves_means_and_equal_scores_stay():
    flat = torch.full((3, 8, 8), 0.5)
    scores = random(1, 8, 8)
    twice = box_mean(box_mean(scores.double(), 2), 2).float()
    torch.testing.assert_close(Guide(flat, 2, 1e-3, 1)(scores), twice, atol=1e-5, rtol=1e-5)
    equal = torch.full((1, 8, 8), 0.25)
    torch.testing.assert_close(Guide(random(3, 8, 8), 2, 1e-3, 1)(equal), equal)


def test_edges_of_the_image_become_edges_of_the_scores():
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[:, :, 16:] = 255
    coarse = torch.tensor([[[0.0, 1.0]]])  # 1 x 2 cells: a ramp over the whole image
    (refine,) = GuidedRefiner(GuidedOptions(0.15, 1e-3, 32, 1), CPU)([image])
    fine = refine(coarse)[0]
    assert fine.shape == (32, 32)
    step, ramp = fine[:, 16] - fine[:, 15], 1 / 16
    assert (step > 3 * ramp).all()


def test_chunks_of_classes_give_the_same(monkeypatch):
    guide, scores = Guide(random(3, 12, 10), 3, 1e-3, 1), random(5, 4, 3, seed=1)
    whole = guide(scores)
    monkeypatch.setattr("hyperclip.stages.guided.items_at_a_time", lambda *_: 2)
    assert torch.equal(guide(scores), whole)


def test_large_images_are_scaled_down():
    image = (random(3, 40, 100) * 255).to(torch.uint8)
    (refine,) = GuidedRefiner(GuidedOptions(0.1, 1e-3, 50, 1), CPU)([image])
    assert refine(random(2, 4, 10)).shape == (2, 20, 50) and refine.radius == 5
    (refine,) = GuidedRefiner(GuidedOptions(0.001, 1e-3, 500, 1), CPU)([image])
    assert refine(random(2, 4, 10)).shape == (2, 40, 100) and refine.radius == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.0, 1e-3, 640, 1), "RADIUS: got 0.0, expected above 0"),
        ((1.5, 1e-3, 640, 1), "RADIUS: got 1.5"),
        ((0.1, 0.0, 640, 1), "EPS: got 0.0, expected 1e-08 or more"),
        ((0.1, float("nan"), 640, 1), "EPS: got nan"),
        ((0.1, 1e-3, 0, 1), "MAX_SIZE: got 0"),
        ((0.1, 1e-3, 640, 0), "SUBSAMPLE: got 0, expected 1 or more"),
    ],
)
def test_mistakes(values, message):
    with pytest.raises(ValueError, match=message):
        GuidedOptions(*values)


def test_as_a_stage():
    keys = ["MODEL.DEVICE", "cpu", "TEST.REFINER.NAME", "guided"]
    system = load_model(load_config("configs/quickstart/dense_clip.yaml", keys))
    assert isinstance(system, Staged)
    image = (random(3, 60, 80) * 255).to(torch.uint8)
    question = Question(Vocabulary.from_text("red circle; blue star"), scores=True)
    encoded = system.encode([image])[0]
    plain = system.system.score(encoded.encoded, question, (60, 80)).coarse()
    expected = GuidedRefiner(GuidedOptions(0.0375, 1e-3, 640, 1), CPU)([image])[0](plain)
    torch.testing.assert_close(system.segment(encoded, question, (60, 80)).scores, expected)
