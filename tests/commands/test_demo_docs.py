"""Every command of docs/demo.md does what is said beside it."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hyperclip.commands import demo, demo_video
from PIL import Image

from tests.conftest import ROOT
from tests.helpers.videos import LEVELS, WORDS, Camera, LevelPredictor, frame_of, write_video

PAGE = (ROOT / "docs/demo.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("  #")[0].strip() for line in PAGE.splitlines() if "python demo/demo.py" in line
]
RESULTS = {
    "--input photos/ --output out": ["b"],
    "--input photos/ --recursive --output out": ["b", "x/c"],
    '--input "photos/**/*.jpg" a.png --output out': ["a", "b", "x/c"],
    "--input - --recursive --output out": ["photos/b", "photos/x/c"],
    "--input clip.mp4 --every 5 --output out": ["clip"],
    "--webcam 0 --output out": ["webcam"],
    "--input photos/ --recursive --output out --resume": ["b", "x/c"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with what the commands name, a camera, and a model."""
    for k, name in enumerate(("a.png", "photos/b.jpg", "photos/x/c.jpg")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame_of(k)).save(tmp_path / name)
    write_video(tmp_path / "clip.mp4", 12)
    real = cv2.VideoCapture
    monkeypatch.setattr(
        demo_video.cv2, "VideoCapture", lambda x, *how: Camera(3) if x == 0 else real(x, *how)
    )
    monkeypatch.setattr(demo.Predictor, "from_config", lambda cfg: LevelPredictor())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(folder, monkeypatch, command):
    before, _, line = command.rpartition("|")
    given = line.partition("demo.py ")[2].strip()
    if before:
        listed = subprocess.run(before, shell=True, capture_output=True, check=True).stdout
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(listed)))
    config = str(ROOT / "configs/quickstart/dense_clip.yaml")
    model = ["--config-file", config, "--vocabulary", WORDS, "--opts", "MODEL.DEVICE", "cpu"]
    assert demo.main([*shlex.split(given), *model]) == 0
    out = folder / "out"
    painted = [p for p in out.rglob("*.*") if re.fullmatch(r"[a-z]+\.(png|mp4)", p.name)]
    names = sorted(p.relative_to(out).with_suffix("").as_posix() for p in painted)
    assert names == RESULTS[given]


def test_all_kinds_of_commands_are_there():
    given = [re.sub(".*demo.py ", "", command).strip() for command in COMMANDS]
    assert set(given) == set(RESULTS) and len(COMMANDS) == 8


def test_the_scores_of_the_page(folder):
    config = str(ROOT / "configs/quickstart/dense_clip.yaml")
    given = ["--input", "a.png", "--output", "out", "--save", "overlay,labels,scores"]
    demo.main([*given, "--config-file", config, "--vocabulary", WORDS])
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    known: dict = {}
    exec(code, known)
    assert known["scores"].shape == (LEVELS, 48, 64) and known["scores"].dtype == np.float16
    assert list(known["names"]) == WORDS.split("; ")
