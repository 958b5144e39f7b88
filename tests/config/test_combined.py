"""Configs of combinations: what they change of what they are made of, and that they answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hyperclip import load_config
from hyperclip.config import plain_settings
from hyperclip.load import load_model
from hyperclip.segmenter import Question
from hyperclip.tinyscenes.drawing import render_scene
from hyperclip.vocabulary import Vocabulary

from tests.conftest import ROOT

CPU = ["MODEL.DEVICE", "cpu"]
HYRO = {"MODEL.SEM_SEG_HEAD.CLIP_FINETUNE": "hyperbolic+rotation"}
REFINED = {"TEST.REFINER.NAME": "diffusion"}
CHANGES = {
    "quickstart/hyperclip_trained": ("quickstart/hyperclip", {"MODEL.WEIGHTS"}),
    "quickstart/hyperclip_refined": (
        "quickstart/hyperclip_trained",
        {
            *REFINED,
            *(f"MODEL.CLIPER.REFINER.{key}" for key in ("FUSION", "INDEX", "THRESHOLD")),
            *(f"MODEL.CLIPER.DIFFUSION.{key}" for key in ("MODEL", "LAYERS", "TIME_STEP")),
        },
    ),
    "quickstart/hyperclip_views": ("quickstart/hyperclip_trained", {"TEST.AUG.ENABLED"}),
    "quickstart/hyro": ("quickstart/hyperclip", set(HYRO)),
    "quickstart/cliper_on_hyperclip": (
        "quickstart/cliper_fusion",
        {"MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED"},
    ),
    "combined/vitb_384_hyperbolic_refined": ("vitb_384_hyperbolic", set(REFINED)),
    "combined/vitb_384_hyro": ("vitb_384_hyperbolic", set(HYRO)),
    "combined/cliper_on_vitb_384_hyperbolic": (
        "cliper/universal_vitb16",
        {"MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED"},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_it_changes(name):
    base, changed = CHANGES[name]
    before, now = (plain_settings(load_config(f"configs/{n}.yaml", CPU)) for n in (base, name))
    assert {k for k in now if now[k] != before[k]} - {"OUTPUT_DIR"} == changed
    lines = (ROOT / f"configs/{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ") and len(lines) <= 25


def test_all_of_the_folder_are_tested():
    combined = {f"combined/{path.stem}" for path in Path("configs/combined").glob("*.yaml")}
    assert combined == {name for name in CHANGES if name.startswith("combined/")}


def test_the_refiner_is_set_as_in_the_system_that_it_is_of():
    here, there = (
        plain_settings(load_config(f"configs/quickstart/{name}.yaml", CPU))
        for name in ("hyperclip_refined", "cliper")
    )
    keys = [k for k in here if k.startswith(("MODEL.CLIPER.REFINER.", "MODEL.CLIPER.DIFFUSION."))]
    assert len(keys) > 8
    for key in keys:
        assert here[key] == there[key], key


@pytest.mark.parametrize("name", ["hyperclip_refined", "hyperclip_views", "both"])
def test_it_answers(name):
    """Otherwise than the system alone."""
    image = torch.from_numpy(render_scene("train", 1)[0].transpose(2, 0, 1))
    question = Question(Vocabulary.from_text("red plain circle; blue striped star; ground"))
    confidences = []
    for config in ("hyperclip_trained", name):
        system = load_model(load_config(f"configs/quickstart/{config}.yaml", CPU))
        answer = system.answer(system.encode([image])[0], question, (96, 96))
        assert (
            answer.labels.shape == (96, 96) and 0 <= answer.labels.min() <= answer.labels.max() < 3
        )
        confidences.append(answer.confidence)
    assert not torch.equal(*confidences)
    assert all(one.isfinite().all() and one.max() > 0 for one in confidences)


def test_hyro_is_built_of_both_adapters():
    cfg = load_config("configs/quickstart/hyro.yaml", CPU)
    assert cfg.MODEL.SEM_SEG_HEAD.CLIP_FINETUNE == "hyperbolic+rotation"
    cfg.MODEL.SEM_SEG_HEAD.NAME = "CosineHead"  # which needs no checkpoint
    system = load_model(cfg, merged=False)
    names = {type(module).__name__ for module in system.modules()}
    assert {"RadiusAdjustment"} < names and any("Rotation" in name for name in names)
