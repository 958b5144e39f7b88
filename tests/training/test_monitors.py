"""What a training says of itself: radii, speed, memory, and the table at its start."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.engine.train_loop import TrainerBase
from detectron2.modeling import build_model
from hyperclip.clip import encode_text, tokenize
from hyperclip.config.keys import load_config
from hyperclip.data.class_lists import train_tasks, train_vocabulary
from hyperclip.inference import resize
from hyperclip.runtime.memory import peak_bytes
from hyperclip.training import monitors as watch
from hyperclip.training.monitors import (
    EmbeddingRadius,
    Throughput,
    describe_training,
)
from hyperclip.training.optimizer import build_optimizer
from hyperclip.vocabulary import Vocabulary
from torch import nn

from reference.training import random_image
from tests.helpers.defaults import make_loop

CONFIG = "configs/quickstart/hyperclip.yaml"


def build(*overrides):
    cfg = load_config(
        CONFIG, ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.SAMPLED_CLASSES", "0", *overrides]
    )
    torch.manual_seed(0)
    model = build_model(cfg)
    model.train_vocabulary = train_vocabulary(cfg)
    return cfg, model


def run(cfg, start, hooks, iterations=2, **options):
    """The model after a few steps over the same two images, and what was stored."""
    model = copy.deepcopy(start)
    batch = [
        {"image": i, "sem_seg": t} for i, t in (random_image(model, 96, seed) for seed in range(2))
    ]
    loop = make_loop(model, batch, build_optimizer(cfg, model), **options)
    loop.register_hooks(hooks)
    loop.train(0, iterations)
    return model, loop.storage


@torch.no_grad()
def expected_radii(model):
    """Twice the mean norms that encoding gives, without hooks."""
    prompts, _ = model.text.prompts(model.train_vocabulary)
    text = encode_text(
        model.clip, tokenize(model.text.tokenizer, prompts, model.clip.context_length)
    )
    images = torch.stack([model.normalise(random_image(model, 96, seed)[0]) for seed in range(2)])
    vision = model.encode_views(resize(images, model.resolution)).embeddings
    return {
        "radius/text": 2 * text.norm(dim=1).mean().item(),
        "radius/vision": 2 * vision.norm(dim=1).mean().item(),
    }


def radii(storage):
    return {
        name: value for name, (value, _) in storage.latest().items() if name.startswith("radius/")
    }


class Evaluation(HookBase):
    """Runs the towers over something else, after the step."""

    def after_step(self):
        model = self.trainer.model.eval()
        with torch.no_grad():
            model.encode([torch.full((3, 96, 96), 255.0)])
        model.train()


@pytest.mark.parametrize("parts", [1, 2])
def test_radii_are_twice_the_norms_of_the_embeddings(parts):
    cfg, model = build()
    trained, storage = run(cfg, model, [EmbeddingRadius(1), Evaluation()], micro_batches=parts)
    before, _ = run(cfg, model, [], iterations=1, micro_batches=parts)
    assert radii(storage) == pytest.approx(expected_radii(before), rel=1e-4)
    assert radii(storage) != pytest.approx(expected_radii(trained), rel=1e-6)
    assert (
        not trained.clip.ln_final._forward_hooks and not trained.clip.visual.ln_post._forward_hooks
    )


@pytest.mark.parametrize("mode", ["hyperbolic", "full"])
def test_looking_at_radii_changes_no_gradient(mode):
    cfg, model = build("MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", mode)
    plain, _ = run(cfg, model, [], iterations=1, precision="bfloat16")
    watched, storage = run(cfg, model, [EmbeddingRadius(1)], iterations=1, precision="bfloat16")
    assert len(radii(storage)) == 2
    for (name, a), b in zip(plain.named_parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b) and (a.grad is None) == (b.grad is None), name
        assert a.grad is None or torch.equal(a.grad, b.grad), name


def test_a_tower_that_is_cached_keeps_its_radius():
    cfg, model = build("MODEL.ADAPTER.ENCODERS", "['vision']")
    _, storage = run(cfg, model, [EmbeddingRadius(2)], iterations=2)
    assert storage.history("radius/text").values() == [
        (pytest.approx(expected_radii(model)["radius/text"]), 1)
    ]
    assert len(storage.history("radius/vision").values()) == 1


class Clock:
    """Time goes on only when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(watch, "time", SimpleNamespace(perf_counter=lambda: self.now))


class Timed(TrainerBase):
    """Steps of 2 s, the first one of 100 s, and 50 s of evaluation after each."""

    def __init__(self, clock, hooks, start, end):
        super().__init__()
        self.clock, self.model = clock, nn.Linear(1, 1)
        self.register_hooks([*hooks, SimpleHook(lambda: self._wait(50))])
        self.train(start, end)

    def _wait(self, seconds):
        self.clock.now += seconds

    def run_step(self):
        self._wait(100 if self.iter == self.start_iter else 2)


class SimpleHook(HookBase):
    def __init__(self, after_step):
        self.after_step = after_step


def test_throughput_counts_steps_only(monkeypatch):
    trainer = Timed(Clock(monkeypatch), [Throughput(8, 4)], 2, 9)
    assert trainer.storage.history("images_per_second").values() == [
        (8 * 2 / 102, 3),
        (8 * 4 / 8, 7),
    ]
    assert trainer.storage.latest()["memory_mb"][0] > 0


def test_a_real_run_has_a_throughput():
    cfg, model = build()
    _, storage = run(cfg, model, [Throughput(2, 1)], iterations=1)
    assert storage.latest()["images_per_second"][0] > 0


@pytest.mark.parametrize(("platform", "unit"), [("linux", 2**10), ("darwin", 2**20)])
def test_peak_memory_of_a_process(monkeypatch, platform, unit):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr("resource.getrusage", lambda _: SimpleNamespace(ru_maxrss=300 * unit))
    monkeypatch.setattr("pathlib.Path.is_file", lambda _: False)  # of /proc
    assert peak_bytes(torch.device("cpu")) == 300 * 2**20


def test_the_table_at_the_start():
    cfg = load_config(
        CONFIG, ["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "16", "SOLVER.MICRO_BATCHES", "2"]
    )
    tasks = train_tasks(cfg)
    table = describe_training(cfg, 6400, tasks, 2, [1.0])
    rows = dict(line.split("  ", 1) for line in table.splitlines() if not line.startswith("-"))
    assert {name: value.strip() for name, value in rows.items()} == {
        "training sets": "tinyscenes_train",
        "images": "6,400",
        "classes": "60",
        "batch": "16 images, 8 in each of 2 processes",
        "micro-batches": "2 in each process, of 4 images",
        "iterations": "600",
        "epochs": "1.50",
        "precision": "float32",
        "evaluation": "at the end",
        "checkpoints": "every 1,000 iterations and at the end",
    }
    several = [*tasks, replace(tasks[0], vocabulary=Vocabulary.from_text("dog; cat", name="pets"))]
    table = describe_training(cfg, 6400, several, 2, [0.75, 0.25])
    assert "about 450 of tinyscenes_seen, about 150 of pets" in table and "60, 2" in table
    periodic = load_config(CONFIG, ["MODEL.DEVICE", "cpu", "TEST.EVAL_PERIOD", "200"])
    assert "every 200 iterations and at the end" in describe_training(
        periodic, 6400, tasks, 1, [1.0]
    )
