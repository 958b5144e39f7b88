"""Names that cannot be in an image are not asked of it; where all stay, no bit changes."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hyperclip import load_config
from hyperclip.blending import BlendedMaps, Layer, Part
from hyperclip.clip import embedder as text_cache
from hyperclip.large.blend import Quarter, label_cell
from hyperclip.load import load_model
from hyperclip.score_maps import GridMaps
from hyperclip.segmenter import Question, label
from hyperclip.stages import (
    Example,
    Examples,
    ExampleStore,
    Memory,
    MemoryOptions,
    Presence,
    Staged,
)
from hyperclip.stages.examples import ExampleMaps, Shown
from hyperclip.stages.pruning import PartMaps, nearness
from hyperclip.stages.regions import MajorityMaps, MeanMaps
from hyperclip.vocabulary import Vocabulary, builtin
from torch.nn import functional as F

from reference import stages as reference
from tests.helpers.systems import GivenSystem
from tests.stages.test_stages import CPU, IMAGES, QUESTIONS, SIZE, Foreign, make, require_equal

NAMES = [
    "red plain circle", "blue striped star", "green dotted cross", "purple plain square",
    "yellow striped triangle", "cyan dotted circle", "wall", "sky",
]  # fmt: skip
ALL = Question(Vocabulary.from_names(NAMES))


def pruned(system, share):
    return Staged(system, [], Presence(system, share))


def test_against_the_reference():
    generator = torch.Generator().manual_seed(0)
    for trial in range(20):
        features = F.normalize(torch.randn(5, 3, 4, generator=generator), dim=0)
        text = F.normalize(torch.randn(9, 5, generator=generator), dim=1)
        class_of = [0, 0, 1, 2, 2, 2, 3, 4, 5] if trial % 2 else list(range(9))
        scale, share = 4.0, (0.02, 0.2, 0.9)[trial % 3]
        behind = nearness(features, text, torch.tensor(class_of) if trial % 2 else None)
        kept = (behind >= math.log(share) / scale).nonzero()[:, 0].tolist()
        assert kept == reference.present_classes(features, text, class_of, share, scale)
        assert behind.max() == 0


@pytest.mark.parametrize("name", ["hyperclip", "hyperclip max", "dense_clip", "cliper_fusion max"])
def test_where_all_names_stay_no_bit_changes(name):
    system = make(name)
    asked = pruned(system, 1e-300)
    own, image = asked.encode(IMAGES)[0], system.encode(IMAGES)[0]
    for question in QUESTIONS.values():
        kept = asked.presence.present(system, image, question.vocabulary)
        assert kept == list(range(len(question.vocabulary)))
        require_equal(asked.answer(own, question, SIZE), system.answer(image, question, SIZE))


@pytest.mark.parametrize("name", ["hyperclip", "cliper_fusion max"])
def test_names_that_stay_are_asked_alone(name):
    system = make(name)
    asked = pruned(system, 0.9)
    for own, image in zip(asked.encode(IMAGES), system.encode(IMAGES), strict=True):
        kept = asked.presence.present(system, image, ALL.vocabulary)
        assert 0 < len(kept) < len(NAMES)
        alone = replace(ALL, vocabulary=Vocabulary.from_names([NAMES[k] for k in kept]))
        for scores in (False, True):
            answer = asked.answer(own, replace(ALL, scores=scores), SIZE)
            expected = system.answer(image, replace(alone, scores=scores), SIZE)
            assert torch.equal(answer.labels, torch.tensor(kept)[expected.labels])
            torch.testing.assert_close(answer.confidence, expected.confidence)
        torch.testing.assert_close(answer.scores[kept], expected.scores)
        dropped = [k for k in range(len(NAMES)) if k not in kept]
        assert (answer.scores[dropped] <= expected.scores.min()).all()


def test_background_words_and_the_mean_of_all_stay():
    system = make("dense_clip")
    asked, image = pruned(system, 1), system.encode(IMAGES)[0]
    words = replace(ALL.vocabulary, background=("grey ground", "haze")).with_background_prompts()
    assert asked.presence.present(system, image, words)[-2:] == [8, 9]
    kept = asked.presence.present(system, image, ALL.vocabulary)
    assert len(kept) < len(NAMES)
    other = replace(ALL.vocabulary, other=True)
    assert asked.presence.present(system, image, other) == list(range(len(NAMES)))
    own = asked.encode(IMAGES)[0]
    for question in (replace(ALL, background="other"), Question.of(NAMES, negatives="haze")):
        answer = asked.answer(own, replace(question, scores=True), SIZE)
        assert answer.labels.max() < len(NAMES) == len(answer.scores)


def test_a_name_that_was_dropped_wins_nowhere():
    """Not even where the only name that stayed has its lowest score, 0."""
    scores = torch.tensor([[[0.0, 0.5], [0.25, 0.0]]])
    for lowest, least in ((0.0, 0.0), (0.1, 0.1), (-1.0, -1.0)):
        part = PartMaps(GridMaps(scores + lowest, pixel_threshold=0.2), torch.tensor([2]), 4)
        answer = label(part, (2, 2), scores=True)
        assert set(answer.labels.unique().tolist()) <= {2, -1}
        assert torch.equal(answer.labels, label(part, (2, 2)).labels)
        others = answer.scores[[0, 1, 3]]
        assert (others < least).all() and (others == 0).all() == (lowest > 0)
        assert (others >= min(least, 0) - 1e-6).all()
        again = part.replaced(part.coarse() + 1)
        assert torch.equal(again.maps.scores, scores + lowest + 1) and again.classes == 4


def given_maps(scores, places, classes):
    """Scores (t, h, w) of places; of all classes; and the same as all classes together."""
    part = PartMaps(GridMaps(scores), torch.tensor(places), classes)
    return part, GridMaps(part.whole(tuple(scores.shape[1:])))


@pytest.mark.parametrize("lowest", [0.1, 0.0, -0.5, -3.0])
@pytest.mark.parametrize("places", [[2], [0, 3], [1, 2, 5], [4, 5]])
def test_a_dropped_name_wins_nowhere_whatever_is_around(places, lowest):
    """Regions, examples, means of several, windows: each may look at chunks of classes."""
    size, windows = (8, 8), []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(len(places), *size, generator=generator) + lowest
        part, whole = given_maps(scores, places, 6)
        windows.append((part, whole))
        assert torch.equal(torch.cat([classes for classes, _ in whole.at(size)]), torch.arange(6))
        classes = torch.cat([classes for classes, _ in part.at(size)])
        assert torch.equal(classes, classes.sort().values)
        regions = torch.arange(64).view(8, 8) // 9
        features = F.normalize(torch.randn(5, 4, 4, generator=generator), dim=0)
        shown = Shown({places[0]: F.normalize(torch.randn(5, generator=generator), dim=0)})
        for around in (
            lambda maps, r=regions: MeanMaps(maps, r),
            lambda maps, r=regions: MajorityMaps(maps, r),
            lambda maps, f=features, s=shown: ExampleMaps(maps, f, s, 0.5),
            lambda maps: BlendedMaps((Layer((Part(maps),)), Layer((Part(maps),))), size),
        ):
            labels = around(part).whole(size).argmax(dim=0)
            assert set(labels.unique().tolist()) <= set(places)
            assert torch.equal(labels, around(part).best(size)[0])
            assert torch.equal(labels, around(whole).whole(size).argmax(dim=0))
    corners = [(False, False), (False, True), (True, False), (True, True)]
    pairs = zip(*windows, strict=True)
    found, expected = (
        label_cell([Quarter(m, *corner) for m, corner in zip(maps, corners, strict=True)], 8)
        for maps in pairs
    )
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])


def test_names_that_say_nothing_are_compared_with_nothing():
    """Examples alone decide of them, so it does not matter what they are."""
    text, answers, every = torch.eye(4), [], [0, 1, 2]
    vocabulary = Vocabulary.from_text("a; b; c")
    memory = Memory(F.normalize(torch.rand(9, 4), dim=1), MemoryOptions(2, 0.9, 5.0))
    image = F.normalize(torch.tensor([1.0, 0.6, 0.2, 0.0]), dim=0)[:, None, None].expand(4, 6, 6)
    for silent_text in (text[0], text[3]):
        scores = torch.tensor([0.9, 0.2, 0.3])[:, None, None].expand(3, 6, 6)
        names = torch.stack([silent_text, text[1], text[2]])
        system = GivenSystem(names, every, scores)
        presence = Presence(system, 1.0)
        assert presence.present(system, image, vocabulary, [0], [0]) == [0, 1]
        assert presence.present(system, image, vocabulary, every, every) == every
        example = Example("a", text[3], words=False)
        for stages in ([], [memory]):
            staged = Staged(system, [Examples(ExampleStore((example,))), *stages])
            question = Question(vocabulary, scores=True)
            answers.append(staged.answer(staged.encode([image])[0], question, (6, 6)).scores)
    torch.testing.assert_close(answers[0], answers[2])
    torch.testing.assert_close(answers[1], answers[3])
    assert (answers[0] != answers[1]).any()


def test_where_nothing_but_names_that_say_nothing_is_left():
    """As of classes that a system leaves out by itself."""
    maps = PartMaps(GridMaps(torch.rand(1, 4, 4)), torch.tensor([1]), 3)
    features = F.normalize(torch.randn(5, 4, 4), dim=0)
    shown = Shown({1: F.normalize(torch.randn(5), dim=0)}, silent={1})
    labels, confidence = ExampleMaps(maps, features, shown, 0.5).best((4, 4))
    assert (labels == 1).all() and (confidence > 0).all() and (confidence < 1).all()


@torch.no_grad()
def test_each_name_is_embedded_once(monkeypatch):
    system = make("cliper_fusion max")
    whole = QUESTIONS["own"].vocabulary
    embeddings = system.text(system.clip, whole)
    monkeypatch.setattr(text_cache, "encode_text", None)
    part = whole.part([0, 2])
    assert torch.equal(system.text(system.clip, part), embeddings[[0, 1, 3, 4, 5]])
    assert system.text.class_of(part) == [0, 0, 1, 1, 1]
    last = part.part([1])
    assert last.names == ["green dotted cross"]
    assert torch.equal(system.text(system.clip, last), embeddings[3:])
    mean = system.text(system.clip, replace(part, other=True))
    assert len(mean) == 6 and torch.equal(mean[:5], embeddings[[0, 1, 3, 4, 5]])


def test_parts_of_a_released_list_with_names_twice():
    whole = builtin("ade847")
    part = whole.part(range(200, 847))
    assert len(part) == 647 and part.classes == whole.classes[200:]
    words = replace(whole, background=("haze",)).with_background_prompts()
    assert words.part([5, 846, 847]).background_classes == 1
    with_word = replace(whole.part([3, 4]), background=("haze",)).with_background_prompts()
    assert with_word.names == [*whole.names[3:5], "haze"] and with_word.whole is None


def test_refusals():
    with pytest.raises(ValueError, match=r"TEST.PRUNE: got 0.1, but Foreign has no embeddings"):
        Presence(Foreign(), 0.1)
    for share in (0, 1.5, math.nan):
        with pytest.raises(ValueError, match="TEST.PRUNE: got .*, expected above 0 and at most 1"):
            Presence(SimpleNamespace(), share)
    with pytest.raises(ValueError, match=r"TEST.PRUNE .*got 1.5, expected 0 to 1"):
        load_config("configs/quickstart/dense_clip.yaml", [*CPU, "TEST.PRUNE", "1.5"])
    system = make("dense_clip")
    system.features = lambda encoded: torch.full((64, 2, 2), torch.nan)
    with pytest.raises(ValueError, match="CLIP's features of the image"):
        Presence(system, 0.1).present(system, None, ALL.vocabulary)


def test_the_key_builds_it_and_results_say_so():
    cfg = load_config("configs/quickstart/dense_clip.yaml", [*CPU, "TEST.PRUNE", "0.01"])
    model = load_model(cfg)
    assert isinstance(model, Staged) and model.presence.share == 0.01
    assert model.describe().settings["prune"] == 0.01
    scale = float(model.clip.logit_scale.exp())
    assert model.presence.margin == pytest.approx(-math.log(0.01) / scale)


def test_a_class_that_examples_show_is_asked():
    """Whatever its name says: here one that no cell is near to."""
    system = make("dense_clip")
    images = system.encode(IMAGES)
    dropped = [k for k in range(len(NAMES)) if k not in found(system, images[0])]
    assert dropped
    prototype = F.normalize(system.features(images[0])[:, 3, 3], dim=0)
    staged = Staged(
        system,
        [Examples(ExampleStore((Example(NAMES[dropped[0]], prototype),)))],
        Presence(system, 1.0),
    )
    plain = pruned(system, 1.0)
    asked = replace(ALL, scores=True)
    one = staged.answer(staged.encode(IMAGES)[0], asked, SIZE)
    other = plain.answer(plain.encode(IMAGES)[0], asked, SIZE)
    lowest = other.scores[dropped[0]].amax()
    assert one.scores[dropped[0]].amax() > lowest
    assert found(system, images[0], (dropped[0],)) == sorted(
        [*found(system, images[0]), dropped[0]]
    )


def found(system, image, shown=()):
    return Presence(system, 1.0).present(system, image, ALL.vocabulary, shown)
