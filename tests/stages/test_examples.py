"""Examples beside words: what they change, what they leave alone, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hyperclip.blending import BlendedMaps, Layer, Part
from hyperclip.config import load_config
from hyperclip.data.example_files import require_mask
from hyperclip.load import build_system
from hyperclip.score_maps import GridMaps
from hyperclip.segmenter import Question
from hyperclip.stages import Example, Examples, ExampleStore, Staged, examples_of, with_examples
from hyperclip.stages.examples import ExampleMaps, Shown, encode_example, prototype_of
from hyperclip.stages.pruning import PartMaps
from hyperclip.tinyscenes.drawing import class_names, render_scene
from hyperclip.vocabulary import Vocabulary
from torch.nn import functional as F

import reference.examples as reference

NAMES = class_names("seen")[:4]
SIZE = (24, 36)


def unit(generator, *shape):
    return F.normalize(torch.randn(shape, generator=generator), dim=0)


@pytest.mark.parametrize("yielding", [set(), {3, 4}])
@pytest.mark.parametrize("silent", [set(), {1}, {1, 3}])
@pytest.mark.parametrize("strength", [0.5, 8.0])
@pytest.mark.parametrize("lowest", [0.0, -0.4, -3.0])
def test_scores_against_the_reference(silent, strength, yielding, lowest):
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        scores = torch.rand(5, 12, 18, generator=generator) + lowest
        features = unit(generator, 7, 4, 6)
        shown = Shown({k: unit(generator, 7) for k in (1, 3, 4)}, silent, yielding - silent)
        maps = ExampleMaps(GridMaps(scores), features, shown, strength)
        prototypes, _, yields = shown
        expected = reference.with_examples(scores, features, prototypes, silent, strength, yields)
        torch.testing.assert_close(maps.whole((12, 18)), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(maps.coarse(), expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(maps.whole((12, 18))[[0, 2]], scores[[0, 2]])
        assert expected.min() >= min(0, scores.min()) - 1e-6
        assert expected.max() <= scores.max() + 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("silent", [set(), {1}])
def test_scores_of_a_system_in_half_precision(dtype, silent):
    generator = torch.Generator().manual_seed(6)
    scores = torch.rand(3, 8, 8, generator=generator).to(dtype)
    features = unit(generator, 7, 4, 4)
    shown = Shown({1: unit(generator, 7)}, silent)
    found, expected = (
        ExampleMaps(GridMaps(given), features, shown, 0.5) for given in (scores, scores.float())
    )
    assert torch.equal(found.whole((16, 16)), expected.whole((16, 16)))
    assert found.best((16, 16))[1].dtype == found.coarse().dtype == torch.float32


def test_examples_alone_against_the_reference():
    generator = torch.Generator().manual_seed(1)
    scores, features = torch.rand(2, 8, 8, generator=generator), unit(generator, 7, 4, 4)
    prototypes = {k: unit(generator, 7) for k in range(2)}
    maps = ExampleMaps(GridMaps(scores), features, Shown(prototypes, {0, 1}), 3.0).whole((8, 8))
    expected = reference.with_examples(scores, features, prototypes, {0, 1}, 3.0)
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-5)
    assert (maps > 0).all() and (maps < 1).all() and (maps[0] > maps[1]).any()


def test_prototypes_against_the_reference():
    generator = torch.Generator().manual_seed(2)
    features = unit(generator, 7, 4, 6)
    mask = torch.rand(12, 18, generator=generator) < 0.2
    torch.testing.assert_close(prototype_of(features, mask), reference.prototype(features, mask))


class Pruned(GridMaps):
    """Without scores of the second class."""

    def at(self, size):
        for classes, maps in super().at(size):
            yield classes[classes != 1], maps[classes != 1]


def test_a_class_that_the_system_has_no_score_for():
    """As of many classes HyperCLIP's head leaves some out."""
    generator = torch.Generator().manual_seed(3)
    scores, features = torch.rand(3, 8, 8, generator=generator), unit(generator, 7, 4, 4)
    scores[1] = 0
    own = {1: unit(generator, 7)}
    for silent in (set(), {1}):
        maps = ExampleMaps(Pruned(scores), features, Shown(own, silent), 3.0).whole((8, 8))
        expected = reference.with_examples(scores, features, own, silent, 3.0)
        torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("silent", [{0}, {1, 2}, {0, 3, 5}, {5}])
@pytest.mark.parametrize("left_out", [set(), {0}, {1, 5}, {0, 2, 3, 5}])
def test_classes_stay_in_their_order(silent, left_out):
    """Whoever adds the scores of several views, windows or systems relies on it."""
    generator = torch.Generator().manual_seed(5)
    blended, expected = [], torch.zeros(6, 8, 8)
    kept = torch.tensor([k for k in range(6) if k not in left_out])
    for _ in range(3):
        part = PartMaps(GridMaps(torch.rand(len(kept), 8, 8, generator=generator)), kept, 6)
        shown = Shown({k: unit(generator, 7) for k in (*silent, 4)}, silent)
        maps = ExampleMaps(part, unit(generator, 7, 4, 4), shown, 0.5)
        classes = torch.cat([classes for classes, _ in maps.at((8, 8))]).tolist()
        assert classes == sorted({*kept.tolist(), *silent})
        blended.append(Layer((Part(maps),)))
        expected += maps.whole((8, 8)) / 3
    found = BlendedMaps(tuple(blended), (8, 8)).whole((8, 8))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("levels", [2, 5, 10**6])
@pytest.mark.parametrize("least", [0.0, 1e-38, 0.5])
@pytest.mark.parametrize("shift", [0.0, -0.3, -2.0])
def test_classes_that_take_nothing_leave_the_others_answer_as_it_is(levels, least, shift):
    """In scores of few levels most pixels have several best classes, and the first of them counts;
    others are 0 everywhere, or too small to be divided by.
    """
    generator = torch.Generator().manual_seed(4)
    won = 0
    for _ in range(20):
        drawn = torch.randint(levels, (6, 24, 24), generator=generator) / levels
        scores = torch.where(drawn == 0, least * 0.5, least + (1 - least) * drawn)
        scores[:, :8] *= 1e-38
        scores += shift
        features = unit(generator, 7, 6, 6)
        prototypes = {k: unit(generator, 7) for k in (1, 2, 4)}
        before = scores.argmax(dim=0)
        others = torch.isin(before, torch.tensor([0, 3, 5]))
        for strength in (0.5, 8.0):
            shown = Shown(prototypes, yielding={1, 2, 4})
            after = ExampleMaps(GridMaps(scores), features, shown, strength).whole((24, 24))
            labels = after.argmax(dim=0)
            assert torch.equal(labels[others], before[others])
            assert torch.isin(labels[~others], torch.tensor([1, 2, 4])).all()
            assert after.min() >= min(0, scores.min()) and after.max() <= scores.max() + 1e-6
            won += int((labels != before).sum())
    assert won > 0 or levels == 2  # where nothing is above the highest score


@pytest.fixture(scope="module", params=["dense_clip", "cliper_fusion"])
def system(request):
    torch.manual_seed(0)
    file = f"configs/quickstart/{request.param}.yaml"
    return build_system(load_config(file, ["MODEL.DEVICE", "cpu"])).eval()


def scene(index):
    image, label = render_scene("val_seen", index)
    return torch.from_numpy(image.transpose(2, 0, 1)), torch.from_numpy(label)


@pytest.fixture(scope="module")
def example(system):
    image, label = scene(0)
    k = int(label[label != 255].mode().values)
    return encode_example(system, image, label == k, class_names("seen")[k])


def test_a_question_without_their_classes_changes_no_bit(system, example):
    staged = with_examples(system, [example])
    image = scene(1)[0]
    names = [name for name in NAMES if name != example.name]
    for threshold in (None, 0.3):
        question = Question.of(names, threshold=threshold, scores=True)
        before = system.answer(system.encode([image])[0], question, SIZE)
        after = staged.answer(staged.encode([image])[0], question, SIZE)
        assert torch.equal(before.scores, after.scores) and torch.equal(before.labels, after.labels)
        assert torch.equal(before.confidence, after.confidence)


def test_others_keep_their_scores_bit_by_bit(system, example):
    names = [*[name for name in NAMES if name != example.name], example.name]
    question = Question(Vocabulary.from_names(names), scores=True)
    image = scene(0)[0]
    before = system.answer(system.encode([image])[0], question, SIZE)
    staged = with_examples(system, [example])
    after = staged.answer(staged.encode([image])[0], question, SIZE)
    assert torch.equal(before.scores[:-1], after.scores[:-1])
    assert not torch.equal(before.scores[-1], after.scores[-1])
    won = (before.labels != after.labels) & (after.labels != len(names) - 1)
    assert (before.labels[won] == len(names) - 1).all()
    for words in ("words", "other"):
        background = {"negatives": "wall"} if words == "words" else {"background": "other"}
        asked = Question.of(question.vocabulary, **background)
        staged.answer(staged.encode([image])[0], asked, SIZE)


def test_a_name_that_words_do_not_know_is_found_by_its_example(system):
    image, label = scene(0)
    k = int(label[label != 255].mode().values)
    own = encode_example(system, image, label == k, "thing 7", words=False)
    staged = with_examples(system, [own])
    question = Question(Vocabulary.from_names(["thing 7", *NAMES[:2]]))
    found = staged.answer(staged.encode([image])[0], question, label.shape).labels == 0
    inside, outside = found[label == k].float().mean(), found[label != k].float().mean()
    assert inside > outside + 0.2


def test_no_example_is_the_system_itself(system, example):
    assert with_examples(system, []) is system and len(examples_of(system)) == 0
    staged = with_examples(with_examples(system, [example]), [example])
    assert len(examples_of(staged)) == 2 and len(staged.stages) == 1
    found = staged.describe().settings["stages"]["Examples"]
    assert (found["examples"], found["classes"]) == (2, 1)


def test_stores_refuse_what_does_not_fit():
    one = Example("cat", torch.ones(4))
    with pytest.raises(ValueError, match="'dog': got 5 channels, expected 4"):
        ExampleStore((one, Example("dog", torch.ones(5))))
    with pytest.raises(ValueError, match="'Cat': got words=False, expected True"):
        ExampleStore((one, Example("Cat", torch.ones(4), words=False)))
    with pytest.raises(ValueError, match="example: got an empty name"):
        ExampleStore((Example(" ", torch.ones(4)),))
    with pytest.raises(ValueError, match="'cat': got takes=False, expected True"):
        ExampleStore((one, replace(one, takes=False)))
    store = ExampleStore((one,))
    store.check(Vocabulary.from_text("tiger, CAT; dog"))
    with pytest.raises(ValueError, match="got some of 'cat', expected .* asked, dog, wolf. Ask"):
        store.check(Vocabulary.from_text("dog; wolf"))


@pytest.mark.parametrize("key", ["words", "takes"])
def test_synonyms_of_one_class_are_shown_alike(key, system):
    """In a question, and in an evaluation, which asks the model itself; apart they may differ."""
    like = torch.ones(len(system.features(system.encode([scene(0)[0]])[0])))
    shown = (Example("dog", like), replace(Example("thing 7", like), **{key: False}))
    store, together = ExampleStore(shown), Vocabulary.from_text("dog, thing 7; cat")
    message = f"'thing 7': got {key}=False, expected True as for 'dog', a synonym of it here. Show"
    with pytest.raises(ValueError, match=message):
        store.check(together)
    model = with_examples(system, shown)
    record = {"image": scene(1)[0], "question": Question(together)}
    with pytest.raises(ValueError, match=message):
        model([record])
    apart = Vocabulary.from_text("dog; thing 7; cat")
    store.check(apart)
    assert model([{**record, "question": Question(apart)}])[0]["sem_seg_labels"].shape == (96, 96)
    alike = ExampleStore(tuple(replace(one, **{key: False}) for one in shown))
    alike.check(together)
    assert set(alike.of(together).prototypes) == {0}


def test_masks():
    with pytest.raises(ValueError, match="mask of 'cat': got 3 x 4, expected .* 4 x 3"):
        require_mask(torch.ones(3, 4, dtype=torch.bool), (4, 3), "'cat'")
    with pytest.raises(ValueError, match="mask of 'cat': got an empty one"):
        require_mask(torch.zeros(4, 3, dtype=torch.bool), (4, 3), "'cat'")


def test_examples_of_another_model(system):
    staged = Staged(system, [Examples(ExampleStore((Example(NAMES[0], torch.ones(3)),)))])
    with pytest.raises(ValueError, match=r"examples: got 3 channels, expected \d+ as of"):
        staged.answer(staged.encode([scene(0)[0]])[0], Question(Vocabulary.from_names(NAMES)), SIZE)
