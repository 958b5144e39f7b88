"""The training step: micro-batches, precision, gradients that are not finite, and the hooks that
watch.
"""

from __future__ import annotations

import copy
import json
import logging
import re

import pytest
import torch
from detectron2.engine.train_loop import TrainerBase
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from hyperclip.config.keys import load_config
from hyperclip.data.class_lists import train_vocabulary
from hyperclip.training.monitors import (
    AdapterDistance,
    FirstGradients,
    LossWatch,
    adapter_distances,
    parameters_without_gradient,
)
from hyperclip.training.optimizer import build_optimizer
from hyperclip.training.step import decide_for_all, gradient_norm, training_precision
from hyperclip.training.trainer import check_batch_size

from reference.training import random_image
from tests.helpers.defaults import make_loop, precision_keys

CONFIG = "configs/quickstart/hyperclip.yaml"
CPU = ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.SAMPLED_CLASSES", "0"]


@pytest.fixture(scope="module")
def cfg():
    return load_config(CONFIG, CPU)


@pytest.fixture(scope="module")
def start(cfg):
    torch.manual_seed(0)
    model = build_model(cfg)
    model.train_vocabulary = train_vocabulary(cfg)
    return model


@pytest.fixture
def batch(start):
    pictures = [random_image(start, 96, seed) for seed in range(4)]
    return [
        {"image": i, "sem_seg": t, "file_name": f"{k}.jpg", "sem_seg_file_name": f"{k}.png"}
        for k, (i, t) in enumerate(pictures)
    ]


def step(start, cfg, batch, **options):
    """The model after one step, and the metrics."""
    model = copy.deepcopy(start)
    loop = make_loop(model, batch, build_optimizer(cfg, model), **options)
    with EventStorage() as storage:
        loop.iter = 0
        loop.run_step()
        return model, {name: value for name, (value, _) in storage.latest().items()}


def test_micro_batches_change_nothing(start, cfg, batch):
    whole, metrics = step(start, cfg, batch)
    for parts in (2, 3, 4):
        split, own = step(start, cfg, batch, micro_batches=parts)
        assert own["total_loss"] == pytest.approx(metrics["total_loss"], rel=1e-5)
        assert own["gradient_norm"] == pytest.approx(metrics["gradient_norm"], rel=1e-4)
        for (name, a), b in zip(whole.named_parameters(), split.parameters(), strict=True):
            if a.grad is not None:
                assert (a.grad - b.grad).abs().max() <= 1e-3 * max(
                    a.grad.abs().max().item(), 1e-6
                ), name


SIZES = ((96, 60), (48, 96), (80, 80), (24, 50))


@pytest.mark.parametrize("sampled", [0, 4])
def test_micro_batches_of_images_that_differ(start, cfg, batch, sampled):
    """Other sizes in each part, and other classes: padding and sampling are of the whole batch."""
    own = copy.deepcopy(start)
    own.sampled_classes = sampled
    cut = [
        {**x, "image": x["image"][:, :h, :w], "sem_seg": x["sem_seg"][:h, :w].clamp_min(2)}
        for x, (h, w) in zip(batch, SIZES, strict=True)
    ]
    for k, record in enumerate(cut):
        # one class in each
        record["sem_seg"][:] = torch.where(record["sem_seg"] == own.ignore, own.ignore, k % 3)
    grads = []
    for parts in (1, 4 if sampled else 2):
        torch.manual_seed(5)
        model, metrics = step(own, cfg, cut, micro_batches=parts)
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        grads[-1]["loss"] = torch.tensor(metrics["total_loss"])
    for split in grads[1:]:
        for name, whole in grads[0].items():
            assert (split[name] - whole).abs().max() <= 1e-3 * max(
                whole.abs().max().item(), 1e-6
            ), name
    torch.manual_seed(5)
    (alone,) = own.train()(cut).values()  # without the loop it decides for what it gets
    assert alone.item() == pytest.approx(grads[0]["loss"].item(), rel=1e-5)


def test_what_is_decided_for_a_whole_batch(start, batch):
    own = copy.deepcopy(start)
    own.sampled_classes = 4
    cut = [
        {**x, "image": x["image"][:, :h, :w], "sem_seg": x["sem_seg"][:h, :w] * 0 + k}
        for k, (x, (h, w)) in enumerate(zip(batch, SIZES, strict=True))
    ]
    decided = decide_for_all(cut[:3], own)
    assert [x["padded_size"] for x in decided] == [(96, 96)] * 3
    chosen = decided[0]["sampled_classes"].tolist()
    assert chosen[:3] == [0, 1, 2] and len(set(chosen)) == 4 and chosen == sorted(chosen)
    assert "padded_size" not in cut[0]  # copies
    own.sampled_classes = len(own.train_vocabulary)
    assert "sampled_classes" not in decide_for_all(cut, own)[0]
    own.sampled_classes, cut[1]["sem_seg"] = 4, torch.full((48, 96), 200)
    with pytest.raises(ValueError, match=r"labels: got \[200\], expected 0 to"):
        decide_for_all(cut, own)


def test_the_norm_is_the_one_before_clipping(start, cfg, batch):
    model, metrics = step(start, cfg, batch)
    assert metrics["gradient_norm"] > cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE
    assert gradient_norm(model).item() == pytest.approx(
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE, rel=1e-3
    )


def test_bfloat16_keeps_weights_and_loss_in_float32(start, cfg, batch):
    _, exact = step(start, cfg, batch)
    model, metrics = step(start, cfg, batch, precision="bfloat16")
    assert metrics["total_loss"] == pytest.approx(exact["total_loss"], rel=0.02)
    assert metrics["gradient_norm"] == pytest.approx(exact["gradient_norm"], rel=0.2)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_precisions():
    assert training_precision(precision_keys("auto")) == "float32"
    assert training_precision(precision_keys("bfloat16")) == "bfloat16"
    with pytest.raises(ValueError, match="float16 needs CUDA"):
        training_precision(precision_keys("float16"))
    with pytest.raises(ValueError, match="SOLVER.PRECISION: got 'half', expected one of"):
        training_precision(precision_keys("half"))


@pytest.mark.parametrize(
    ("parts", "size", "works"),
    [(1, 4, True), (2, 4, True), (3, 4, False), (8, 4, False)],
)
def test_batches_that_cannot_be_divided(parts, size, works):
    cfg = load_config(
        CONFIG, ["SOLVER.MICRO_BATCHES", str(parts), "SOLVER.IMS_PER_BATCH", str(size)]
    )
    if works:
        return check_batch_size(cfg)
    with pytest.raises(ValueError, match=f"got 4 for 1 processes with MICRO_BATCHES {parts}"):
        check_batch_size(cfg)


def test_no_step_with_a_gradient_that_is_not_finite(start, cfg, batch, tmp_path):
    model = copy.deepcopy(start)
    with torch.no_grad():
        model.sem_seg_head.cost_embedding.weight[0] = float("inf")
    before = copy.deepcopy(model.state_dict())
    loop = make_loop(model, batch, build_optimizer(cfg, model), faults=tmp_path)
    with (
        EventStorage(),
        pytest.raises(
            FloatingPointError, match="iteration 7: the gradients of .* are not finite"
        ) as error,
    ):
        loop.iter = 7
        loop.run_step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    (path,) = tmp_path.iterdir()
    assert str(path) in str(error.value)
    content = json.loads(path.read_text())
    assert content["iteration"] == 7 and content["files"][2] == {
        "file_name": "2.jpg",
        "sem_seg_file_name": "2.png",
    }
    assert (
        "loss_sem_seg" in content["losses"]
        and "sem_seg_head.cost_embedding.bias" in content["parameters"]
    )


class Run(TrainerBase):
    """A trainer of a loop, as long as a list of losses."""

    def __init__(self, model, hooks, losses):
        super().__init__()
        self.model, self.losses = model, losses
        self.register_hooks(hooks)
        self.train(0, len(losses))

    def run_step(self):
        self.storage.put_scalar("total_loss", self.losses[self.iter])


def test_parameters_without_a_gradient_are_named_once(start, cfg, batch, caplog):
    model, _ = step(start, cfg, batch)
    last = len(model.clip.visual.transformer.resblocks) - 1
    expected = [
        f"clip.visual.transformer.resblocks.{last}.attn.parametrizations.in_proj_weight.0.{n}"
        for n in "qk"
    ]
    assert parameters_without_gradient(model) == expected
    with caplog.at_level(logging.WARNING):
        Run(model, [FirstGradients()], [1.0, 1.0])
    assert (
        caplog.text.count("got no gradient in the first step") == 1 and expected[0] in caplog.text
    )


@pytest.mark.parametrize(
    ("losses", "period", "warned"),
    [
        ([1.0] * 40, 20, [20, 40]),
        ([1 - k / 80 for k in range(40)], 20, []),
        ([2.0] * 10 + [1.0] * 20 + [3.0] * 10, 20, [40]),
        ([1.0] * 19, 20, []),
        ([1.0, 1.0, 0.5, 2.0], 1, [2, 4]),
        ([1.0, 0.5, 0.4, 1.0], 2, [4]),
        ([1.0] * 7, 3, [3, 6]),
        ([1.0] * 4, 0, []),
    ],
)
def test_a_loss_that_does_not_fall(start, caplog, losses, period, warned):
    """After every period, the first one, too."""
    with caplog.at_level(logging.WARNING):
        Run(start, [LossWatch(period)], losses)
    found = re.findall(r"The loss has not fallen after (\d+) iterations", caplog.text)
    assert [int(done) for done in found] == warned


def test_the_distance_of_adapters_from_the_identity(start, cfg, batch):
    assert adapter_distances(start) == {
        "vision": pytest.approx(0, abs=1e-6),
        "text": pytest.approx(0, abs=1e-6),
    }
    model, _ = step(start, cfg, batch)
    distances = adapter_distances(model)
    assert all(1e-5 < value < 1 for value in distances.values())
    run = Run(model, [AdapterDistance(2)], [1.0, 1.0])
    assert run.storage.latest()["adapter_distance/text"][0] == pytest.approx(distances["text"])
