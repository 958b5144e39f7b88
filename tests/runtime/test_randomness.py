"""Random numbers that are seeded for a while leave those outside as they were."""

import random

import numpy as np
import torch
from hyperclip.runtime.randomness import seeded


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_numbers_depend_on_the_seed_alone_and_go_on_outside(monkeypatch):
    reseeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    random.seed(1), np.random.seed(1), torch.default_generator.manual_seed(1)
    undisturbed = [draw(), draw()]
    random.seed(1), np.random.seed(1), torch.default_generator.manual_seed(1)
    inside = []
    first = draw()
    for seed in ((3, 4), (3, 4), (3, 5)):
        with seeded(*seed):
            inside.append(draw())
    assert [first, draw()] == undisturbed
    assert inside[0] == inside[1] and all(a != b for a, b in zip(*inside[1:], strict=True))
    assert not reseeded  # a GPU's numbers are not kept, so they are not touched
