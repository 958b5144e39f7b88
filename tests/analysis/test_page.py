"""The commands of docs/inside.md, as they stand there, with the quickstart's weights and little to
look at.
"""

from __future__ import annotations

import importlib
import shutil

import numpy as np
import pytest
import torch
from hyperclip import load_config
from hyperclip.load import build_system
from hyperclip.tinyscenes.drawing import render_scene
from PIL import Image

from tests.docs.reading import commands_of

PAGE = "docs/inside.md"
COMMANDS = [
    command
    for command in commands_of(PAGE)
    if command.words[0] in ("hyperclip-analyze-radius", "hyperclip-visualize")
    and len(command.words) > 1
]
WRITES = {
    "output/radius": ["radius.csv", "radius.png", "radius_layers.png", "radius_ball.png"],
    "output/inside": [f"00000_{k}.png" for k in ("cost", "attention", "margin", "entropy")],
    "output/inside-cliper": ["00000_fused.png", "00000_refiner.png"],
    "output/sheet": ["a.png", "b_margin.png", "sheet.png", "sheet_margin.png"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two scenes of a split as a dataset and as photos, and a training with one checkpoint."""
    folder = tmp_path_factory.mktemp("reader")
    for split in ("val_seen", "val_unseen"):
        for index, photo in enumerate("ab"):
            image, label = render_scene(split, index)
            for kind, array in (("images", image), ("labels", label)):
                path = folder / f"data/tinyscenes/{split}/{kind}/{index:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
            (folder / "photos").mkdir(exist_ok=True)
            Image.fromarray(image).save(folder / f"photos/{photo}.png")
    model = build_system(load_config("configs/quickstart/hyperclip.yaml", ["MODEL.DEVICE", "cpu"]))
    training = folder / "output/radius-training"
    training.mkdir(parents=True)
    torch.save({"model": model.state_dict(), "iteration": 99}, training / "model_0000099.pth")
    return folder


def test_the_page_has_commands_of_both():
    assert {command.words[0] for command in COMMANDS} == {
        "hyperclip-analyze-radius",
        "hyperclip-visualize",
    }
    assert {output_of(command) for command in COMMANDS} == set(WRITES)


def output_of(command):
    return command.words[command.words.index("--output") + 1]


@pytest.mark.parametrize("command", COMMANDS, ids=output_of)
def test_they_do_what_the_page_says(command, folder, monkeypatch):
    if output_of(command) == "output/inside-cliper":
        pytest.importorskip("diffusers")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder / "data"))
    words = [*command.words[1:], *([] if "--opts" in command.words else ["--opts"])]
    name = command.words[0].removeprefix("hyperclip-").replace("-", "_")
    program = importlib.import_module(f"hyperclip.commands.{name}")
    shutil.rmtree(output_of(command), ignore_errors=True)
    assert program.main([*words, "MODEL.DEVICE", "cpu"]) == 0
    for file in WRITES[output_of(command)]:
        path = folder / output_of(command) / file
        if path.suffix == ".png":
            assert np.asarray(Image.open(path).convert("L")).std() > 5, file
        assert path.stat().st_size > 1000
