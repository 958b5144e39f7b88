"""The quickstart in small: prepare, train a few steps, resume, evaluate, draw, through the users'
commands.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cliper.pretrained import load_diffusion
from hyperclip.clip import CLIP_MEAN, CLIP_STD, load_clip
from hyperclip.tinyscenes.drawing import SPLITS, class_names, render_captioned, render_scene
from PIL import Image

from tests.helpers.programs import run_program
from tests.helpers.results import rows_of

CONFIG = "configs/quickstart/hyperclip.yaml"


def run(root, *arguments):
    environment = {**os.environ, "DETECTRON2_DATASETS": str(root)}
    done = run_program(*arguments, environment=environment)
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
    common = [
        "--config-file",
        CONFIG,
        "OUTPUT_DIR",
        tmp_path,
        "SEED",
        1,
        "DATALOADER.NUM_WORKERS",
        0,
    ]
    log = run(root, "tools/train_net.py", *common, "SOLVER.MAX_ITER", 40, "SOLVER.BASE_LR", 0.002)
    assert "CLIP vision adapters" in log and "73,728" in log  # what trains is logged as a table
    curve = losses(tmp_path)
    assert curve[-1] < 0.6 * curve[0]
    results = rows_of(tmp_path)
    assert set(results) == {"tinyscenes_val_seen", "tinyscenes_val_unseen"}
    assert all(
        r["images"] == 6 and 0 <= r["mIoU"] <= 100 and r["mIoU_old"] <= r["mIoU"]
        for r in results.values()
    )

    weights = tmp_path / "model_final.pth"
    again = tmp_path / "again"
    arguments = [
        "--config-file",
        CONFIG,
        "--eval-only",
        "OUTPUT_DIR",
        again,
        "MODEL.WEIGHTS",
        weights,
    ]
    run(root, "tools/train_net.py", *arguments)
    evaluated = rows_of(again)
    for name, scores in results.items():  # adapters are merged here and were not in training
        assert evaluated[name]["mIoU"] == pytest.approx(scores["mIoU"], abs=0.2)

    images = root / "tinyscenes/val_unseen/images"
    run(
        root,
        "demo/demo.py",
        "--config-file",
        CONFIG,
        "--input",
        images,
        "--output",
        again,
        "--opts",
        "MODEL.WEIGHTS",
        weights,
    )
    assert len(list(again.glob("*_labels.png"))) == 6


def test_sliding_windows_on_the_tiny_model(root, tmp_path):
    run(
        root,
        "tools/train_net.py",
        "--config-file",
        "configs/quickstart/dense_clip.yaml",
        "--eval-only",
        "OUTPUT_DIR",
        tmp_path,
        "TEST.SLIDING_WINDOW",
        "True",
        "TEST.SLIDING.SIZE",
        160,
        "TEST.SLIDING.KERNEL",
        96,
    )
    rows = rows_of(tmp_path)
    assert set(rows) == {"tinyscenes_val_seen", "tinyscenes_val_unseen"}
    assert all(
        row["settings"]["views"] == "windows" and row["images"] == 6 for row in rows.values()
    )


def first_choices(folder, render):
    """Share of images, in percent, of which the phrase ranked first among all 90 is true."""
    clip, names = load_clip(str(folder)), class_names()
    pictures = [render(i) for i in range(300)]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    images = torch.stack(
        [(torch.from_numpy(image).permute(2, 0, 1) - mean) / std for image, _ in pictures]
    )
    tokens = clip.tokenizer(
        [f"A photo of a {name} in the scene" for name in names], context_length=32
    )
    text = F.normalize(clip.model.encode_text(tokens), dim=-1)
    best = (clip.model.encode_image(images) @ text.T).argmax(1).tolist()
    return (
        100
        * sum(names[k] in shown for k, (_, shown) in zip(best, pictures, strict=True))
        / len(pictures)
    )


@torch.no_grad()
@pytest.mark.parametrize("name", ["tiny_clip", "tiny_scene_clip"])
def test_shipped_clips_are_what_their_records_say(name):
    folder = Path("configs/quickstart") / name
    record = json.loads((folder / "pretraining.json").read_text())
    render = partial(render_captioned, record.get("world", "objects"), record["seed"] + 1_000_000)
    assert first_choices(folder, render) == pytest.approx(
        record["zero_shot_accuracy_percent"], abs=5
    )


@torch.no_grad()
def test_the_shipped_diffusion_model_is_what_its_record_says():
    record = json.loads(Path("configs/quickstart/tiny_diffusion/pretraining.json").read_text())
    model = load_diffusion("configs/quickstart/tiny_diffusion")
    images = (
        torch.stack(
            [torch.from_numpy(render_scene("val_seen", i)[0]).permute(2, 0, 1) for i in range(16)]
        )
        / 127.5
        - 1
    )
    latents = model.vae.encode(images).latent_dist.mean * model.vae.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, abs=0.15)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape, generator=generator)
    steps = torch.randint(1000, (16,), generator=generator)
    noisy = model.scheduler.add_noise(latents, noise, steps)
    predicted = model.unet(
        noisy, steps, encoder_hidden_states=model.prompt.expand(16, -1, -1)
    ).sample
    assert F.mse_loss(predicted, noise).item() == pytest.approx(record["unet"]["loss"], abs=0.03)


def test_the_shipped_weights_are_small():
    for folder, most in (("configs/quickstart", 21e6), ("configs", 36e6)):
        assert sum(p.stat().st_size for p in Path(folder).rglob("*.safetensors")) <= most
