"""The training loss with every short cut equals the one without: value, gradients, and the first
optimiser step.
"""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.modeling import build_model
from hyperclip.config.keys import load_config
from hyperclip.data.class_lists import train_vocabulary
from hyperclip.training.optimizer import build_optimizer

from reference import training as reference

CONFIG = "configs/quickstart/hyperclip.yaml"


@pytest.fixture(scope="module")
def cfg():
    return load_config(CONFIG, ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.SAMPLED_CLASSES", "0"])


@pytest.fixture(scope="module")
def model(cfg):
    torch.manual_seed(0)
    built = build_model(cfg).train().double()
    built.train_vocabulary = train_vocabulary(cfg)
    with torch.no_grad():
        for p in built.parameters():
            if p.requires_grad:
                p.add_(0.02 * torch.randn_like(p))
    return built


def test_loss_and_gradients(model):
    image, target = reference.random_image(model, 96)
    ours = model([{"image": image.double(), "sem_seg": target}])["loss_sem_seg"]
    literal = reference.loss(model, image.double(), target)
    # the loss itself is summed in float32
    assert ours.item() == pytest.approx(literal.item(), rel=1e-6)
    names, parameters = zip(
        *((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True
    )
    fast = torch.autograd.grad(ours, parameters, allow_unused=True)
    slow = torch.autograd.grad(literal, parameters, allow_unused=True)
    for name, a, b in zip(names, fast, slow, strict=True):
        b = torch.zeros_like(a) if b is None else b
        assert (a - b).abs().max() <= 1e-4 * max(b.abs().max().item(), 1e-6), name


def test_one_step(model, cfg):
    image, target = reference.random_image(model, 96)
    other = copy.deepcopy(model)
    for which in (model, other):
        optimizer = build_optimizer(cfg, which)
        if which is other:
            reference.step(other, optimizer, image.double(), target)
        else:
            model([{"image": image.double(), "sem_seg": target}])["loss_sem_seg"].backward()
            optimizer.step()
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-5, name
