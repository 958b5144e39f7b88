"""Stages under both systems and a foreign one: off, identical, refined, one class a region."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hyperclip import load_config
from hyperclip.inference import ViewScores
from hyperclip.load import build_system, load_model
from hyperclip.score_maps import GridMaps
from hyperclip.segmenter import Description, Question, Segmentation, Segmenter, label
from hyperclip.stages import REFINER_REGISTRY, REGIONS_REGISTRY, Refine, Regions, Staged
from hyperclip.stages.regions import RULES, MajorityMaps, MeanMaps, in_size, partition
from hyperclip.test_time import Augmented, ViewOptions
from hyperclip.tinyscenes.drawing import render_scene
from hyperclip.vocabulary import Vocabulary

from reference import stages as reference
from tests.docs.reading import blocks

WORDS = "red plain circle, circle; blue striped star; green dotted cross, plus, cross"
IMAGES = [torch.from_numpy(render_scene("val_seen", i)[0].transpose(2, 0, 1)) for i in range(2)]
SIZE, CPU = (60, 70), ["MODEL.DEVICE", "cpu"]
QUESTIONS = {
    "own": Question(Vocabulary.from_text(WORDS)),
    "scores": Question(Vocabulary.from_text(WORDS), scores=True),
    "threshold": Question(Vocabulary.from_text(WORDS), "threshold", pixel_threshold=0.35),
    "classes": Question(Vocabulary.from_text(WORDS), class_threshold=0.5),
    "words": Question.of(WORDS, negatives="grey ground; wall"),
    "other": Question.of(WORDS, background="other"),
}


class Foreign(Segmenter):
    """Fills what a system has to fill alone: its stages work on whole maps."""

    def encode(self, images):
        return [image.float() / 255 for image in images]

    def segment(self, encoded, question, size):
        maps = torch.nn.functional.interpolate(encoded[None], size=size)[0]
        maps = (
            maps.repeat(4, 1, 1)[: len(question.vocabulary)]
            * torch.linspace(1, 0.9, 12)[: len(question.vocabulary), None, None]
        )
        whole = GridMaps(maps, question.class_threshold or 0.0, question.pixel_threshold or 0.0)
        return label(whole, size, question.scores)

    def describe(self, dataset=()):
        return Description("Foreign")


def make(name):
    if name == "foreign":
        return Foreign().eval()
    torch.manual_seed(0)
    config, _, synonyms = name.partition(" ")
    keys = [*CPU, "MODEL.SYNONYMS", synonyms or "first"]
    return build_system(load_config(f"configs/quickstart/{config}.yaml", keys)).eval()


SYSTEMS = ["hyperclip", "hyperclip max", "dense_clip", "cliper", "cliper_fusion max", "foreign"]


@pytest.fixture(scope="module", params=SYSTEMS)
def system(request):
    return make(request.param)


@pytest.fixture(scope="module")
def encoded(system):
    return system.encode(IMAGES)


def asked(system):
    """The questions that a system answers."""
    return [q for name, q in QUESTIONS.items() if name != "other" or system.text is not None]


def require_equal(one: Segmentation, other: Segmentation):
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.confidence, other.confidence)
    assert (one.scores is None) == (other.scores is None)
    if one.scores is not None:
        assert torch.equal(one.scores, other.scores)


def identity(images):
    return [lambda coarse: coarse for _ in images]


def own_pixels(images):
    return [torch.arange(x.shape[1] * x.shape[2]).view(x.shape[1:]) for x in images]


def quarters(images):
    """Four regions of unequal size, and a frame of none."""
    found = []
    for image in images:
        regions = torch.full(image.shape[1:], -1)
        for index, (rows, columns) in enumerate(
            (r, c) for r in pairwise((3, 40, 90)) for c in pairwise((5, 50, 96))
        ):
            regions[slice(*rows), slice(*columns)] = index
        found.append(regions)
    return found


@pytest.mark.parametrize("rule", RULES)
def test_one_region_a_pixel_changes_no_bit(system, encoded, rule):
    staged = Staged(system, [Regions(own_pixels, rule)])
    size = IMAGES[0].shape[1:]
    pairs = list(zip(staged.encode(IMAGES), encoded, strict=True))
    for question in asked(system):
        for own, image in pairs:
            require_equal(staged.answer(own, question, size), system.answer(image, question, size))


@pytest.mark.parametrize("rule", RULES)
def test_no_region_changes_no_bit(system, encoded, rule):
    staged = Staged(system, [Regions(lambda images: [torch.full((96, 96), -1)] * 2, rule)])
    own, image = staged.encode(IMAGES)[1], encoded[1]
    for question in asked(system):
        require_equal(staged.answer(own, question, SIZE), system.answer(image, question, SIZE))


@pytest.mark.parametrize("system", [s for s in SYSTEMS if s != "hyperclip max"], indirect=True)
def test_an_identical_refinement_changes_no_bit(system, encoded):
    """Of several prompts HyperCLIP takes the best one of a pixel, the stage that of a cell."""
    staged = Staged(system, [Refine(identity)])
    own, image = staged.encode(IMAGES)[0], encoded[0]
    for question in asked(system):
        require_equal(staged.answer(own, question, SIZE), system.answer(image, question, SIZE))


def test_regions_against_the_reference(system, encoded):
    regions = in_size(quarters(IMAGES[:1])[0], SIZE)
    question = QUESTIONS["scores"]
    plain = system.segment(encoded[0], question, SIZE)
    staged = Staged(system, [Regions(quarters, "mean")])
    answer = staged.segment(staged.encode(IMAGES)[0], question, SIZE)
    means = reference.region_means(plain.scores, regions)
    torch.testing.assert_close(answer.scores, means, atol=1e-5, rtol=1e-5)
    for region in range(4):
        assert len(answer.labels[regions == region].unique()) == 1
    staged = Staged(system, [Regions(quarters, "majority")])
    labels, scores = reference.region_majority_scores(plain.scores, regions)
    for asks_scores in (False, True):  # the labels do not depend on it
        asked = replace(question, scores=asks_scores)
        answer = staged.segment(staged.encode(IMAGES)[0], asked, SIZE)
        assert torch.equal(answer.labels, labels)
        torch.testing.assert_close(answer.confidence, scores.amax(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answer.scores, scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_thresholds_of_pixels_count_after_the_rule(system, rule):
    staged = Staged(system, [Regions(quarters, rule)])
    own, words = staged.encode(IMAGES)[0], QUESTIONS["own"].vocabulary
    whole = staged.answer(own, Question(words, "none"), SIZE)
    middle = float(whole.confidence.mean())
    for asks_scores in (False, True):
        question = Question(words, "threshold", pixel_threshold=middle, scores=asks_scores)
        answer = staged.answer(own, question, SIZE)
        assert 0.05 < (answer.labels == -1).float().mean() < 0.95
        assert torch.equal(answer.labels, whole.labels.masked_fill(whole.confidence < middle, -1))
        found = answer.labels >= 0
        assert torch.equal(answer.confidence[found], whole.confidence[found])


def test_pixels_below_a_threshold_vote_for_their_own_class():
    """And not for the first one: the order of the names makes no difference."""
    staged = Staged(make("cliper_fusion"), [Regions(quarters, "majority")])
    own, names = staged.encode(IMAGES)[0], WORDS.split("; ")
    middle = float(staged.answer(own, Question.of(names), SIZE).confidence.median())
    one, other = (
        staged.answer(own, Question.of(asked, threshold=middle), SIZE).labels
        for asked in (names, names[::-1])
    )
    assert len(one.unique()) > 1
    assert torch.equal(one, torch.where(other >= 0, len(names) - 1 - other, other))


def test_cliper_is_its_fusion_with_the_stage():
    """Its own refiners and the same ones as stages of any system are one contract."""
    whole, fusion = make("cliper"), make("cliper_fusion")
    staged = load_model(
        load_config(
            "configs/quickstart/cliper_fusion.yaml", [*CPU, "TEST.REFINER.NAME", "diffusion"]
        )
    )
    assert isinstance(staged, Staged)
    pairs = zip(whole.encode(IMAGES), staged.encode(IMAGES), fusion.encode(IMAGES), strict=True)
    for own, stage, plain in pairs:
        for question in QUESTIONS.values():
            answer = whole.answer(own, question, SIZE)
            require_equal(answer, staged.answer(stage, question, SIZE))
            assert not torch.equal(
                answer.confidence, fusion.answer(plain, question, SIZE).confidence
            )


def test_off_is_the_system_itself():
    for name in ("hyperclip", "cliper"):
        cfg = load_config(f"configs/quickstart/{name}.yaml", [*CPU])
        cfg.MODEL.WEIGHTS = ""
        if name == "hyperclip":
            cfg = load_config("configs/quickstart/dense_clip.yaml", CPU)
        assert not isinstance(load_model(cfg), Staged)


def test_refiners_see_each_image_and_every_class():
    system = make("dense_clip")
    seen = []

    def weigh(images):
        def refine(factor, coarse):
            seen.append(tuple(coarse.shape))
            return coarse * factor

        return [partial(refine, image.float().mean() / 255) for image in images]

    staged = Staged(system, [Refine(weigh)])
    question = QUESTIONS["scores"]
    for own, plain, image in zip(staged.encode(IMAGES), system.encode(IMAGES), IMAGES, strict=True):
        expected = system.segment(plain, question, SIZE).scores * image.float().mean() / 255
        torch.testing.assert_close(staged.segment(own, question, SIZE).scores, expected)
    assert {shape[0] for shape in seen} == {3}


def test_what_does_not_fit_is_refused():
    system = make("dense_clip")
    fewer = Staged(system, [Refine(lambda images: [lambda coarse: coarse[:2] for _ in images])])
    with pytest.raises(ValueError, match=r"refined scores: got \(2, 12, 12\).*expected \(3, h, w"):
        fewer.segment(fewer.encode(IMAGES)[0], QUESTIONS["own"], SIZE)
    spoiled = Staged(system, [Refine(lambda images: [lambda coarse: coarse / 0 - coarse / 0] * 2)])
    with pytest.raises(ValueError, match="the refined scores"):
        spoiled.segment(spoiled.encode(IMAGES)[0], QUESTIONS["own"], SIZE)
    small = Staged(system, [Regions(lambda images: [torch.zeros(3, 4)] * 2, "mean")])
    with pytest.raises(ValueError, match=r"regions: got \(3, 4\).*image's size \(96, 96\)"):
        small.encode(IMAGES)
    with pytest.raises(ValueError, match="TEST.REGIONS.RULE: got 'median', expected one of"):
        Regions(own_pixels, "median")


@pytest.mark.parametrize("rule", [*RULES, "attention"])
def test_numbers_of_regions(rule):
    """However large they are the answer is the same; those below -1 are refused."""
    system, question = make("dense_clip"), QUESTIONS["scores"]

    def answers(change):
        def proposer(images):
            return [change(regions) for regions in quarters(images)]

        staged = Staged(system, [Regions(proposer, rule, "own", temperature=0.1)])
        return [staged.answer(image, question, SIZE) for image in staged.encode(IMAGES)]

    expected = answers(lambda regions: regions)
    for factor, kind in ((100, torch.int16), (10**9, torch.int64), (2**40, torch.int64)):
        several = answers(lambda x, n=factor, to=kind: torch.where(x < 0, -1, x * n + 7).to(to))
        for found, wanted in zip(several, expected, strict=True):
            require_equal(found, wanted)
    everywhere = answers(lambda regions: regions.clamp_min(0))
    large = answers(lambda regions: regions.clamp_min(0) + 2**61)
    for found, wanted in zip(large, everywhere, strict=True):
        require_equal(found, wanted)
    for lowest in (-2, -(2**40)):
        message = f"regions: got {lowest} from 'own', expected numbers from 0 on, and -1 for pixels"
        with pytest.raises(ValueError, match=message):
            answers(lambda regions, least=lowest: regions.where(regions > 0, least))


@pytest.mark.parametrize(
    ("key", "registry"),
    [("TEST.REFINER.NAME", REFINER_REGISTRY), ("TEST.REGIONS.NAME", REGIONS_REGISTRY)],
)
def test_unknown_names(key, registry):
    cfg = load_config("configs/quickstart/dense_clip.yaml", [*CPU, key, "sharpen"])
    with pytest.raises(ValueError, match=f"{key}: got 'sharpen', expected one of .*'none'"):
        load_model(cfg)
    assert "none" in registry


def test_overlapping_masks():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        masks = torch.rand(6, 7, 8, generator=generator) < torch.rand(6, 1, 1, generator=generator)
        assert torch.equal(partition(masks), reference.smallest_masks(masks))
    assert (partition(torch.zeros(0, 3, 4, dtype=torch.bool)) == -1).all()


def test_region_maps_of_random_scores():
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        scores = torch.rand(5, 9, 8, generator=generator).mul(4).round() / 4  # with many ties
        regions = torch.randint(-1, 6, (9, 8), generator=generator)
        maps = GridMaps(scores, pixel_threshold=0.6)
        mean = label(MeanMaps(maps, regions), (9, 8), scores=True)
        expected = reference.region_means(scores, regions)
        torch.testing.assert_close(mean.scores, expected)
        torch.testing.assert_close(mean.confidence, expected.amax(0))
        assert torch.equal(mean.labels == -1, mean.confidence < 0.6)
        labels, expected = reference.region_majority_scores(scores, regions)
        for asks_scores in (False, True):
            majority = label(MajorityMaps(maps, regions), (9, 8), asks_scores)
            chosen = majority.labels != -1
            assert torch.equal(majority.labels[chosen], labels[chosen])
            assert torch.equal(chosen, majority.confidence >= 0.6)
            torch.testing.assert_close(majority.confidence, expected.amax(0))
        torch.testing.assert_close(majority.scores, expected)


def test_regions_of_another_size_are_those_of_the_nearest_pixels():
    regions = torch.arange(6).view(2, 3)
    twice = regions.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(in_size(regions, (4, 6)), twice)
    assert in_size(regions, (1, 1)).tolist() == [[4]]


def test_classes_split_between_chunks_of_prompts(monkeypatch):
    system = make("hyperclip max")
    encoded = system.encode(IMAGES)[0]
    maps = system.score(encoded, QUESTIONS["own"], SIZE)
    assert isinstance(maps, ViewScores)
    whole = maps.whole(SIZE)
    monkeypatch.setattr("hyperclip.inference.items_at_a_time", lambda *_: 1)
    chunks = list(maps.at(SIZE))
    assert torch.cat([classes for classes, _ in chunks]).tolist() == [0, 1, 2]
    assert torch.equal(torch.cat([part for _, part in chunks]), whole)


def test_a_staged_system_says_so():
    system = make("hyperclip")
    plain = system.describe()
    staged = Staged(system, [Refine(identity, "identity"), Regions(own_pixels, "mean", "pixels")])
    found = staged.describe()
    assert (found.system, found.method, plain.method) == ("HyperCLIP", "", "HyperCLIP")
    stages = {"Refine": {"name": "identity"}, "Regions": {"name": "pixels", "rule": "mean"}}
    assert dict(found.settings) == {**plain.settings, "stages": stages}


def test_features_are_unit_embeddings_where_the_image_has_them():
    for name in ("hyperclip", "dense_clip", "cliper"):
        system = make(name)
        features = system.features(system.encode(IMAGES)[0])
        text = system.text(system.clip, QUESTIONS["own"].vocabulary)
        assert features.dim() == 3 and features.shape[0] == text.shape[1]
        np.testing.assert_allclose(features.norm(dim=0).detach().numpy(), 1, atol=1e-5)
    with pytest.raises(ValueError, match="Foreign gives no embeddings"):
        make("foreign").features(None)


def test_the_refiner_of_the_docs(monkeypatch):
    (written,) = (block for block in blocks("docs/stages.md", "python") if "def smooth" in block)
    monkeypatch.setattr(REFINER_REGISTRY, "_obj_map", dict(REFINER_REGISTRY._obj_map))
    exec(compile(written, "docs/stages.md", "exec"), {})
    keys = [*CPU, "TEST.REFINER.NAME", "smooth"]
    staged = load_model(load_config("configs/quickstart/dense_clip.yaml", keys))
    own = make("dense_clip").score(staged.encode(IMAGES)[0].encoded, QUESTIONS["own"], SIZE)
    expected = torch.nn.functional.avg_pool2d(own.coarse(), 3, 1, 1)
    maps = staged.score(staged.encode(IMAGES)[0], QUESTIONS["own"], SIZE)
    torch.testing.assert_close(maps.coarse(), expected)


class Abstaining(Foreign):
    """Leaves out by itself what is dark, where a background exists."""

    def segment(self, encoded, question, size):
        answer = super().segment(encoded, question, size)
        if question.background == "threshold" and question.pixel_threshold is None:
            dark = answer.confidence < 0.4
            answer = replace(answer, labels=answer.labels.masked_fill(dark, -1))
        return answer


@pytest.mark.parametrize("stage", [Refine(identity), Regions(own_pixels, "mean")])
def test_what_a_foreign_system_leaves_out_by_itself_stays_out(stage):
    system, size = Abstaining().eval(), IMAGES[0].shape[1:]
    question = Question(Vocabulary.from_text(WORDS), "threshold")
    staged = Staged(system, [stage])
    plain = system.answer(system.encode(IMAGES)[0], question, size)
    assert 0.05 < (plain.labels == -1).float().mean() < 0.95
    require_equal(staged.answer(staged.encode(IMAGES)[0], question, size), plain)


def test_what_a_system_lacks_is_seen_through_its_views():
    """Before any image, by what needs the embeddings of cells."""
    views = Augmented(make("foreign"), ViewOptions(True, ()))
    assert not views.has_features and Augmented(make("cliper"), ViewOptions(True, ())).has_features
    with pytest.raises(ValueError, match="Foreign gives no embeddings"):
        Staged(views, [Regions(own_pixels, "attention", temperature=0.1)])
