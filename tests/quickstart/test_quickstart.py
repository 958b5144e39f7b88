"""The quickstart in small: prepare, train a few steps, resume, evaluate, draw, through the users' commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hyperclip.clip import CLIP_MEAN, CLIP_STD, load_clip
from hyperclip.data.tinyscenes import SPLITS, class_names, render_object, render_scene
from PIL import Image

CONFIG = "configs/quickstart/hyperclip.yaml"


def run(root, *arguments):
    environment = {**os.environ, "DETECTRON2_DATASETS": str(root)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A reduced tinyscenes tree with the files that the preparation script would write."""
    root = tmp_path_factory.mktemp("data")
    for split in SPLITS:
        for kind in ("images", "labels"):
            (root / "tinyscenes" / split / kind).mkdir(parents=True)
        for index in range(24 if split == "train" else 6):
            for kind, array in zip(("images", "labels"), render_scene(split, index), strict=True):
                Image.fromarray(array).save(root / "tinyscenes" / split / kind / f"{index:05d}.png")
    return root


def losses(output):
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return [line["total_loss"] for line in lines if "total_loss" in line]


def test_train_resume_evaluate_and_draw(root, tmp_path):
    common = ["--config-file", CONFIG, "OUTPUT_DIR", tmp_path, "SEED", 1, "DATALOADER.NUM_WORKERS", 0]
    log = run(root, "tools/train_net.py", *common, "SOLVER.MAX_ITER", 40, "SOLVER.BASE_LR", 0.002)
    assert "CLIP vision adapters" in log and "73,728" in log  # what trains is logged as a table
    curve = losses(tmp_path)
    assert curve[-1] < 0.6 * curve[0]
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert set(results) == {"tinyscenes_val_seen", "tinyscenes_val_unseen"}
    assert all(r["images"] == 6 and 0 <= r["mIoU"] <= 100 and r["mIoU_old"] <= r["mIoU"] for r in results.values())

    weights = tmp_path / "model_final.pth"
    again = tmp_path / "again"
    arguments = ["--config-file", CONFIG, "--eval-only", "OUTPUT_DIR", again, "MODEL.WEIGHTS", weights]
    run(root, "tools/train_net.py", *arguments)
    evaluated = json.loads((again / "results.json").read_text())["results"]
    for name, scores in results.items():  # adapters are merged here and were not in training
        assert evaluated[name]["mIoU"] == pytest.approx(scores["mIoU"], abs=0.2)

    images = root / "tinyscenes/val_unseen/images"
    run(root, "demo/demo.py", "--config-file", CONFIG, "--input", images, "--output", again, "--opts", "MODEL.WEIGHTS", weights)
    assert len(list(again.glob("*_labels.png"))) == 6


def test_sliding_windows_on_the_tiny_model(root, tmp_path):
    run(
        root, "tools/train_net.py", "--config-file", "configs/quickstart/dense_clip.yaml", "--eval-only",
        "OUTPUT_DIR", tmp_path, "TEST.SLIDING_WINDOW", "True", "TEST.SLIDING.SIZE", 160, "TEST.SLIDING.KERNEL", 96,
    )  # fmt: skip
    assert (tmp_path / "results.json").exists()


@torch.no_grad()
def test_shipped_weights_are_what_their_record_says():
    folder = Path("configs/quickstart/tiny_clip")
    record = json.loads((folder / "pretraining.json").read_text())
    assert (folder / "open_clip_model.safetensors").stat().st_size < 12e6
    clip, names = load_clip(str(folder)), class_names()
    pairs = [render_object(record["seed"] + 1_000_000, i) for i in range(300)]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    images = torch.stack([(torch.from_numpy(image).permute(2, 0, 1) - mean) / std for image, _ in pairs])
    tokens = clip.tokenizer([f"A photo of a {name} in the scene" for name in names], context_length=32)
    text = F.normalize(clip.model.encode_text(tokens), dim=-1)
    best = (clip.model.encode_image(images) @ text.T).argmax(1).tolist()
    accuracy = 100 * sum(names[k] == phrase for k, (_, phrase) in zip(best, pairs, strict=True)) / len(pairs)
    assert accuracy == pytest.approx(record["zero_shot_accuracy_percent"], abs=3)
