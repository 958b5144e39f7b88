"""Test-time views: against each view segmented by itself, and what they leave as it is."""

from __future__ import annotations

import pytest
import torch
from hyperclip import load_config
from hyperclip.blending import BlendedMaps, Layer, Part, aligned
from hyperclip.load import load_model
from hyperclip.score_maps import GridMaps
from hyperclip.segmenter import Question
from hyperclip.stages import Staged, with_stages
from hyperclip.test_time import Augmented, ViewOptions, crops, views_of, with_views
from hyperclip.vocabulary import Vocabulary
from hyperclip.wrapper import unwrapped

from reference import combining as reference
from tests.stages.test_stages import CPU, IMAGES, QUESTIONS, Foreign, make

SIZE = (50, 61)
ENABLED = ["TEST.AUG.ENABLED", "True"]


@pytest.fixture(scope="module", params=["hyperclip max", "cliper_fusion", "foreign"])
def system(request):
    return make(request.param)


@pytest.mark.parametrize(("flip", "zooms"), [(True, ()), (True, (1.5,))])
def test_against_each_view_by_itself(system, flip, zooms):
    image = IMAGES[0][:, :80]  # not square
    question = QUESTIONS["scores"]

    def segment(crop, size):
        return system.segment(system.encode([crop])[0], question, size).scores

    views = Augmented(system, ViewOptions(flip, zooms))
    answer = views.segment(views.encode([image])[0], question, SIZE)
    boxes = [crops((80, 96), zoom) for zoom in zooms]
    expected = reference.mean_of_views(segment, image, SIZE, boxes, flip)
    torch.testing.assert_close(answer.scores, expected, atol=1e-5, rtol=1e-5)
    confidence, labels = answer.scores.max(dim=0)
    one = views.segment(views.encode([image])[0], QUESTIONS["own"], SIZE)
    torch.testing.assert_close(one.confidence, confidence, atol=1e-6, rtol=0)
    assert (one.labels == labels).float().mean() > 0.99


def test_all_views_of_all_images_go_through_the_system_together(monkeypatch):
    system = Foreign()
    calls = []
    monkeypatch.setattr(system, "encode", lambda images: calls.append(len(images)) or list(images))
    views = Augmented(system, ViewOptions(True, (2.0,)))
    seen = views.encode([IMAGES[0], IMAGES[1][:, :50]])
    assert calls == [2 * 2 * (1 + 9)]
    assert [len(own.encoded) for own in seen] == [20, 20] and seen[1].size == (50, 96)
    assert torch.equal(seen[1].encoded[0], IMAGES[1][:, :50])
    assert torch.equal(seen[1].encoded[1], IMAGES[1][:, :50].flip(-1))


@pytest.mark.parametrize("size", [(96, 96), (1, 7), (33, 100)])
@pytest.mark.parametrize("zoom", [1.01, 1.5, 2.0, 3.0, 7.3])
def test_crops_cover_the_image_and_overlap_by_a_third(size, zoom):
    covered = torch.zeros(size)
    boxes = crops(size, zoom)
    for top, bottom, left, right in boxes:
        assert 0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]
        assert bottom - top == -(-size[0] // zoom) and right - left == -(-size[1] // zoom)
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1 and len(set(boxes)) == len(boxes)
    tops = sorted({box[0] for box in boxes})
    height = boxes[0][1] - boxes[0][0]
    steps = [b - a for a, b in zip(tops, tops[1:], strict=False)]
    assert all(step <= height * 2 / 3 + 1 for step in steps)


def test_a_mirrored_image_has_the_mirrored_answer():
    system = make("hyperclip")
    views = Augmented(system, ViewOptions(True, ()))
    one, other = views.encode([IMAGES[0], IMAGES[0].flip(-1)])
    first = views.segment(one, QUESTIONS["scores"], SIZE).scores
    second = views.segment(other, QUESTIONS["scores"], SIZE).scores
    torch.testing.assert_close(first, second.flip(-1), atol=1e-5, rtol=1e-5)


def test_thresholds_apply_to_the_mean(system):
    views = Augmented(system, ViewOptions(True, ()))
    seen = views.encode(IMAGES[:1])[0]
    whole = views.segment(seen, QUESTIONS["scores"], SIZE)
    middle = float(whole.confidence.median())
    asked = Question(QUESTIONS["own"].vocabulary, "threshold", pixel_threshold=middle)
    answer = views.segment(seen, asked, SIZE)
    left_out = whole.confidence < middle
    assert torch.equal(answer.labels == -1, left_out)
    assert torch.equal(answer.confidence[~left_out], whole.confidence[~left_out])
    assert (answer.confidence[left_out] == 0).all() == hasattr(system, "fusion")  # CLIPer's rule


def test_stages_work_on_the_mean_of_the_views():
    keys = [*CPU, *ENABLED, "TEST.REFINER.NAME", "guided", "TEST.AUG.ZOOMS", "[2.0]"]
    staged = load_model(load_config("configs/quickstart/dense_clip.yaml", keys))
    assert isinstance(staged, Staged) and isinstance(staged.system, Augmented)
    assert unwrapped(staged) is staged.system.system
    seen = staged.encode(IMAGES[:1])[0]
    mean = staged.system.score(seen.encoded, QUESTIONS["scores"], SIZE).coarse()
    assert mean.shape == (3, 24, 24)
    answer = staged.segment(seen, QUESTIONS["scores"], (96, 96))
    torch.testing.assert_close(answer.scores, seen.seen[0](mean))
    features = staged.features(seen)
    assert torch.equal(features, unwrapped(staged).features(seen.encoded.encoded[0]))


def test_coarse_scores_are_no_finer_than_the_image():
    maps = [GridMaps(torch.rand(2, 8, 8)) for _ in range(2)]
    whole, crop = Part(maps[0]), Part(maps[1], (0.0, 0.5, 0.0, 1.0))
    rest = Part(maps[1], (0.5, 1.0, 0.0, 1.0))
    layers = (Layer((whole,)), Layer((crop, rest), 3.0))
    assert BlendedMaps(layers, (12, 12)).coarse().shape == (2, 12, 8)
    assert BlendedMaps(layers, (4, 4)).coarse().shape == (2, 8, 8)
    blended = BlendedMaps(layers, (16, 16))
    expected = (maps[0].whole((16, 8)) + 3 * maps[1].scores.repeat(1, 2, 1)) / 4
    torch.testing.assert_close(blended.coarse(), expected)
    torch.testing.assert_close(blended.whole((16, 8)), expected)


def test_streams_of_other_chunks_are_aligned():
    def stream(*chunks):
        for classes in chunks:
            yield torch.tensor(classes), torch.tensor(classes).float()[:, None, None]

    found = list(aligned([stream([0, 2, 3], [5]), stream([1], [2, 3, 4]), stream()]))
    assert [classes.tolist() for classes, _ in found] == [[0, 1], [2, 3], [4], [5]]
    for classes, chunks in found:
        for chunk in filter(None, chunks):
            assert set(chunk[0].tolist()) <= set(classes.tolist())
            assert torch.equal(chunk[0].float(), chunk[1].flatten())
        assert chunks[2] is None
    assert sum(len(chunk[0]) for _, chunks in found for chunk in filter(None, chunks)) == 8


def test_off_is_the_system_itself():
    cfg = load_config("configs/quickstart/dense_clip.yaml", CPU)
    system = make("foreign")
    assert with_views(system, cfg) is system and with_stages(system, cfg) is system


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["TEST.AUG.FLIP", "False"], "TEST.AUG.ENABLED: got True with FLIP False and no ZOOMS"),
        (["TEST.AUG.ZOOMS", "[1.0]"], "TEST.AUG.ZOOMS: got 1.0, expected numbers above 1"),
        (["TEST.AUG.ZOOMS", "['a']"], "TEST.AUG.ZOOMS: got 'a', expected numbers above 1"),
        (["TEST.AUG.ZOOMS", "[2.0, 2.0]"], "TEST.AUG.ZOOMS: .*each number once"),
        (["TEST.AUG.MIN_SIZES", "[400]"], "TEST.AUG.MIN_SIZES .*use TEST.AUG.ZOOMS"),
    ],
)
def test_mistakes(keys, message):
    with pytest.raises(ValueError, match=message):
        cfg = load_config("configs/quickstart/dense_clip.yaml", [*CPU, *ENABLED, *keys])
        with_views(make("foreign"), cfg)


def test_what_the_system_says_of_itself():
    system = make("hyperclip")
    found = Augmented(system, ViewOptions(True, (1.5,))).describe()
    views = {"flip": True, "zooms": [1.5]}
    assert dict(found.settings) == {**system.describe().settings, "test-time views": views}
    assert found.method == ""
    assert len(views_of((96, 96), ViewOptions(True, (1.5,)))) == 10
    long = Vocabulary.from_text("word " * 60)
    with pytest.raises(ValueError, match="word"):
        Augmented(system, ViewOptions(True, ())).check(long)
