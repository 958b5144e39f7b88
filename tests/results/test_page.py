"""docs/results.md: its commands run, its table lists every format and method."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest
from hyperclip import Predictor
from hyperclip.commands import demo
from hyperclip.prediction import Prediction
from hyperclip.results import WRITERS
from hyperclip.tinyscenes.drawing import render_scene
from PIL import Image

from tests.conftest import ROOT

PAGE = (ROOT / "docs/results.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder with a photo and a folder of photos, to work in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i, name in enumerate(("photo.jpg", "photos/a.jpg")):
        Image.fromarray(render_scene("val_seen", i)[0]).save(tmp_path / name)
    return tmp_path


def test_the_table_lists_every_format_and_method():
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ")]
    listed = [row[2].strip(" `") for row in rows[1:]]
    assert sorted(filter(None, listed)) == sorted(WRITERS)
    methods = set(re.findall(r"`(to_\w+)\(", PAGE))
    assert methods == {name for name in vars(Prediction) if name.startswith("to_")}


def test_the_command(photos):
    (command,) = blocks("bash")
    program, *arguments = shlex.split(command)[1:]
    assert (ROOT / program).is_file()
    given = ["--config-file", "configs/quickstart/dense_clip.yaml", "--opts", "MODEL.DEVICE", "cpu"]
    assert demo.main([*arguments, *given]) == 0
    for name in ("coco.json", "voc/SegmentationClass/a.png", "label_studio.json"):
        assert (photos / "out" / name).is_file()


def test_the_code(photos, monkeypatch):
    """Both blocks, one after the other, with the quickstart's model."""
    config = ("configs/quickstart/dense_clip.yaml", ["MODEL.DEVICE", "cpu"])
    model = Predictor.from_config(*config)
    monkeypatch.setattr(Predictor, "from_pretrained", lambda: model)
    known = {}
    for block in blocks("python"):
        exec(compile(block, "docs/results.md", "exec"), known)
    labels = np.asarray(Image.open(photos / "photo.png"))
    np.testing.assert_array_equal(labels, known["prediction"].labels + 1)
    (image,) = json.loads((photos / "out" / "coco.json").read_text())["images"]
    assert image["file_name"] == "photo.jpg" and known["task"]["predictions"]
