"""The command of the table of all systems and stages: rows of every kind, on two scenes."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
import torch
from hyperclip import zoo
from hyperclip.config.keys import load_config
from hyperclip.load import build_system, load_model
from hyperclip.tinyscenes.drawing import SPLITS, render_scene
from PIL import Image

from tests.conftest import ROOT

KEPT = ("CLIP's last layer", "HyperCLIP, regions: of the labels", "HyperCLIP, memory bank")


@pytest.fixture
def program():
    path = ROOT / "tools/quickstart_table.py"
    spec = importlib.util.spec_from_file_location("quickstart_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A folder with the trainings of seed 1, and tinyscenes of two images a split."""
    for split in ("train", "val_seen", "val_unseen"):
        monkeypatch.setitem(SPLITS, split, SPLITS[split]._replace(images=2))
        for index in range(2):
            for kind, array in zip(("images", "labels"), render_scene(split, index), strict=True):
                path = tmp_path / "data/tinyscenes" / split / kind / f"{index:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    small = zoo.named("quickstart/hyperclip")
    tuned = load_model(load_config(small.config, small.overrides), merged=False)
    frozen = build_system(load_config("configs/quickstart/frozen_clip.yaml"))
    for name, model in (("hyperclip", tuned), ("frozen_clip", frozen)):
        folder = tmp_path / "table" / f"{name}-1"
        folder.mkdir(parents=True)
        torch.save({"model": model.state_dict()}, folder / "model_final.pth")
    return tmp_path / "table"


def test_rows_of_every_kind(program, trained, monkeypatch):
    rows = tuple(row for row in program.ROWS if row.title in KEPT)
    assert len(rows) == len(KEPT)
    monkeypatch.setattr(program, "ROWS", rows)
    monkeypatch.setattr(program, "EXAMPLES", (1,))
    arguments = ["--output", str(trained), "--seeds", "1", "--limit", "1"]
    monkeypatch.setattr(sys, "argv", ["quickstart_table", *arguments])
    program.main()
    head, _, *lines = (trained / "table.md").read_text(encoding="utf-8").splitlines()
    assert [line.split("|")[1].strip() for line in lines] == [row.title for row in rows]
    assert "unseen, mIoU" in head and all(line.count("|") == 7 for line in lines)
    results = json.loads((trained / "table.json").read_text(encoding="utf-8"))["rows"]
    assert {(x["row"], x["dataset"]) for x in results} == {
        (title, name) for title in KEPT for name in program.SETS
    }
    # the parts of the labels of both sets, though their images have the same names
    assert len(list((trained / "regions").rglob("*.png"))) == 4
    files = sorted((trained / "rows").rglob("tiny_*.json"))
    before = [path.stat().st_mtime_ns for path in files]
    program.main()
    assert files and [path.stat().st_mtime_ns for path in files] == before


def test_cells_are_means_over_seeds(program):
    def result(value):
        return {"mIoU": value, "boundary_mIoU": value / 2, "seconds_per_image": 0.25}

    alone = list(program.cells([[result(40.0), result(20.0)]]))
    assert alone == ["40.0", "20.0", "20.0", "10.0", "0.25"]
    several = list(program.cells([[result(v), result(20.0)] for v in (40.0, 42.0, 44.0)]))
    assert several == ["42.0 +- 2.0", "21.0 +- 1.0", "20.0 +- 0.0", "10.0 +- 0.0", "0.25"]


def test_every_row_can_be_filled(program, tmp_path):
    """Titles are different, and configs and keys name no place but those of seed and output."""
    titles = [row.title for row in program.ROWS]
    assert len(set(titles)) == len(titles)
    for row in program.ROWS:
        for text in (row.config, *row.keys):
            assert "{" not in text.format(seed=1, output=tmp_path)
