"""The tools that made the shipped weights, run for a few steps."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from cliper.pretrained import load_diffusion
from hyperclip.clip import load_clip
from hyperclip.tinyscenes.drawing import render_scene
from hyperclip.tinyscenes.pretraining import Pretraining
from torch.optim.swa_utils import AveragedModel

from tests.quickstart.test_quickstart import run


@torch.no_grad()
def test_diffusion(tmp_path):
    run(
        tmp_path,
        "tools/pretrain_tiny_diffusion.py",
        "--output",
        tmp_path,
        "--vae-steps",
        3,
        "--unet-steps",
        4,
        "--stop-after",
        2,
        "--scenes",
        2,
    )
    record = json.loads((tmp_path / "pretraining.json").read_text())
    assert (record["vae"]["steps"], record["unet"]["steps"]) == (3, 2) and not (
        tmp_path / "state.pt"
    ).exists()
    model = load_diffusion(str(tmp_path))
    images = (
        torch.stack(
            [torch.from_numpy(render_scene("train", i)[0]).permute(2, 0, 1) for i in range(16)]
        )
        / 127.5
        - 1
    )
    latents = model.vae.encode(images).latent_dist.mean * model.vae.config.scaling_factor
    # the scale that was trained with is the one that is saved
    assert latents.std().item() == pytest.approx(1, abs=0.2)


def test_clip_of_scenes_starts_from_another(tmp_path):
    run(
        tmp_path,
        "tools/pretrain_tiny_clip.py",
        "--world",
        "scenes",
        "--init",
        "configs/quickstart/tiny_scene_clip",
        "--value-loss",
        0.5,
        "--batch",
        4,
        "--steps",
        2,
        "--lr",
        1e-9,
        "--output",
        tmp_path,
    )
    record = json.loads((tmp_path / "pretraining.json").read_text())
    shipped = json.loads(open("configs/quickstart/tiny_scene_clip/pretraining.json").read())
    assert (
        record["steps_done"] == 2
        and record["zero_shot_accuracy_percent"] > shipped["zero_shot_accuracy_percent"] - 5
    )
    ours, theirs = (
        load_clip(str(path)).model for path in (tmp_path, "configs/quickstart/tiny_scene_clip")
    )
    torch.testing.assert_close(ours.visual.proj, theirs.visual.proj, atol=1e-3, rtol=0)


def test_a_killed_pretraining_goes_on():
    saved = []

    def weights(state, stop):
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 1)
        optimizer, average = torch.optim.AdamW(model.parameters()), AveragedModel(model)
        training = Pretraining("x", model, optimizer, lambda k: 0.1 / k, 5, state, average)
        training.run(
            lambda step: torch.tensor([[1.0, step]]),
            lambda batch: model(batch).square().sum(),
            stop=stop,
            save=lambda: saved.append(copy.deepcopy(training.state)),
            every=2,
        )
        return torch.cat([model.weight[0], average.module.weight[0]])

    whole = weights({}, 5)
    assert [state["step"] for state in saved] == [2, 4, 5]
    assert torch.equal(weights(saved[0], 5), whole) and not torch.equal(weights({}, 4), whole)
