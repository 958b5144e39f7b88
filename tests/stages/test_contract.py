"""What holds for every stage: its scores are such as the system could give, so that an ensemble, a
threshold and a page's colours keep their meaning, and its labels do not depend on whether scores
are asked, too.
"""

from __future__ import annotations

import cliper  # noqa: F401  (registers its refiners)
import pytest
import timm
import torch
import torch.nn.functional as F
from hyperclip import load_config
from hyperclip.ensemble import Ensemble
from hyperclip.segmenter import Question
from hyperclip.stages import (
    REFINER_REGISTRY,
    REGIONS_REGISTRY,
    Example,
    Examples,
    ExampleStore,
    Memory,
    MemoryOptions,
    Refine,
    Regions,
    Staged,
)
from hyperclip.stages.refining import build_entry
from hyperclip.stages.region_attention import ATTENTION
from hyperclip.stages.regions import RULES
from hyperclip.test_time import Augmented, ViewOptions
from hyperclip.tinyscenes.drawing import render_scene
from safetensors.torch import save_file

from tests.helpers.systems import GivenSystem

WORDS, SIZE, ROUNDING = "red plain circle; blue striped star; green dotted cross", (96, 96), 1e-6
SCENE = torch.from_numpy(render_scene("val_seen", 0)[0].transpose(2, 0, 1)).float()
SMALL_DINO = "vit_tiny_patch16_224"


def random(*shape, seed):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape, seed):
    return F.normalize(random(*shape, seed=seed) - 0.5, dim=-1)


def patches(seed):
    """Scores (3, 24, 24) of patches of 0, 1 and what lies between."""
    coarse = (random(3, 1, 8, 8, seed=seed) * 3 - 1).clamp(0, 1)
    return F.interpolate(coarse, size=(24, 24))[:, 0]


def given(seed, lowest=0.0):
    """A system whose scores are patches, the lowest of them 0 or less, and which sees colours."""
    scores = patches(seed) + lowest
    return GivenSystem(unit(3, 3, seed=seed), [0, 1, 2], scores, scale=50.0)


def refined(name, folder):
    keys = ["MODEL.DEVICE", "cpu"]
    if name == "features":
        weights = folder / "dino.safetensors"
        save_file(timm.create_model(SMALL_DINO, num_classes=0).state_dict(), weights)
        keys += ["MODEL.CLIPER.FEATURES.MODEL", SMALL_DINO]
        keys += ["MODEL.CLIPER.FEATURES.WEIGHTS", str(weights)]
    cfg = load_config("configs/quickstart/cliper.yaml", keys)
    return Refine(build_entry(REFINER_REGISTRY, "TEST.REFINER.NAME", name, cfg), name)


def quarters(images):
    rows, columns = (torch.arange(side) >= side // 3 for side in images[0].shape[1:])
    return [rows[:, None] * 2 + columns[None] for _ in images]


def segment(system, scores=True):
    question = Question.of(WORDS, scores=scores)
    return system.segment(system.encode([SCENE])[0], question, SIZE)


def require_contract(staged, system):
    """What changes stays between the system's lowest and highest score in the image, or 0."""
    before, after = segment(system), segment(staged)
    lowest, highest = min(float(before.scores.min()), 0.0), max(float(before.scores.max()), 0.0)
    assert after.scores.min() >= lowest - ROUNDING
    assert after.scores.max() <= highest + ROUNDING <= 1 + 2 * ROUNDING
    assert torch.equal(after.confidence, after.scores.amax(0))
    assert torch.equal(after.labels, after.scores.argmax(0))
    alone = segment(staged, scores=False)
    assert torch.equal(alone.labels, after.labels)
    assert torch.equal(alone.confidence, after.confidence)
    changed = (after.labels != before.labels).any() or (after.scores != before.scores).any()
    assert changed == (staged is not system)


LOWEST = pytest.mark.parametrize("lowest", [0.0, -0.4, -1.5])


@LOWEST
@pytest.mark.parametrize("name", sorted(dict(REFINER_REGISTRY)))
def test_refiners(name, lowest, tmp_path):
    system = given(0, lowest)
    staged = system if name == "none" else Staged(system, [refined(name, tmp_path)])
    require_contract(staged, system)


@LOWEST
@pytest.mark.parametrize("rule", [*RULES, ATTENTION])
def test_regions(rule, lowest):
    """Whatever entry proposes them: that is where a pixel belongs, and no score."""
    assert "none" in REGIONS_REGISTRY
    for seed in range(3):
        system = given(seed, lowest)
        staged = Staged(system, [Regions(quarters, rule, temperature=0.1)])
        require_contract(staged, system)


@LOWEST
@pytest.mark.parametrize("weight", [0.1, 1.0, 30.0])
def test_memory(weight, lowest):
    for seed in range(3):
        system = given(seed, lowest)
        memory = Memory(unit(40, 3, seed=seed + 9), MemoryOptions(3, 0.9, weight))
        require_contract(Staged(system, [memory]), system)


@LOWEST
@pytest.mark.parametrize(("words", "takes"), [(True, True), (True, False), (False, True)])
def test_examples(words, takes, lowest):
    for seed in range(3):
        system = given(seed, lowest)
        shown = [
            Example(name, prototype, words, takes)
            for name, prototype in zip(
                WORDS.split("; ")[:2], unit(2, 3, seed=seed + 5), strict=True
            )
        ]
        require_contract(Staged(system, [Examples(ExampleStore(tuple(shown)))]), system)


@LOWEST
def test_views(lowest):
    options = ViewOptions(flip=True, zooms=(1.5,))
    for seed in range(3):
        system = given(seed, lowest)
        require_contract(Augmented(system, options), system)


def test_an_ensemble_of_systems_with_stages():
    options = MemoryOptions(3, 0.9, 30.0)
    members = [Staged(given(seed), [Memory(unit(40, 3, seed=7), options)]) for seed in range(2)]
    ensemble = Ensemble(
        members=members,
        largest=[1, 1],
        names=["one", "other"],
        weights=(),
        background_threshold=0.0,
    )
    found = segment(ensemble)
    assert found.scores.min() >= -ROUNDING and 0.5 < found.scores.max() <= 1 + ROUNDING
    assert torch.equal(segment(ensemble, scores=False).labels, found.labels)
