"""What the optimiser does with a config's numbers, on models small enough to calculate by hand."""

from __future__ import annotations

import pytest
import torch
from hyperclip.config.keys import load_config
from hyperclip.training.optimizer import build_optimizer, parameter_groups
from torch import nn

CONFIG = "configs/quickstart/hyperclip.yaml"


class Small(nn.Module):
    """One weight of each kind, in CLIP and outside of it."""

    def __init__(self):
        super().__init__()
        self.clip = nn.ModuleDict(
            {"embedding": nn.Embedding(2, 2), "norm": nn.LayerNorm(2), "linear": nn.Linear(2, 2)}
        )
        self.clipped = nn.Linear(2, 2, bias=False)  # its name begins like CLIP's
        self.head = nn.ModuleDict(
            {"embedding": nn.Embedding(2, 2), "norm": nn.GroupNorm(1, 2), "linear": nn.Linear(2, 2)}
        )
        self.tied = nn.Linear(2, 2, bias=False)
        self.tied.weight = self.head["linear"].weight
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def config(**keys):
    pairs = [
        str(x) for key, value in keys.items() for x in (f"SOLVER.{key.replace('__', '.')}", value)
    ]
    return load_config(CONFIG, ["MODEL.DEVICE", "cpu", *pairs])


def test_groups_by_kind_and_place():
    model = Small()
    cfg = config(
        BASE_LR=0.5,
        CLIP_MULTIPLIER=0.1,
        WEIGHT_DECAY=0.01,
        WEIGHT_DECAY_NORM=0.02,
        WEIGHT_DECAY_EMBED=0.03,
    )
    names = {id(p): n for n, p in model.named_parameters()}
    groups = parameter_groups(model, cfg)
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(groups) == len(found) == len([p for p in model.parameters() if p.requires_grad])
    for name, (rate, decay) in found.items():
        assert rate == pytest.approx(0.05 if name.startswith("clip.") else 0.5), name
        assert decay == {"norm": 0.02, "embedding": 0.03}.get(name.split(".")[1], 0.01), name


def loaded(gradients, **keys):
    """Parameters at zero with these gradients, and their optimiser."""
    model = nn.Module()
    for k, g in enumerate(gradients):
        model.register_parameter(f"p{k}", nn.Parameter(torch.zeros(len(g))))
    optimizer = build_optimizer(config(**keys), model)
    parameters = list(model.parameters())

    def step():
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
        return [p.grad.tolist() for p in parameters], [p.detach().tolist() for p in parameters]

    return step


@pytest.mark.parametrize(
    ("kind", "norm"), [(2.0, 13.0), (1.0, 19.0), (3.0, (27 + 64 + 1728) ** (1 / 3))]
)
def test_one_norm_of_the_wanted_kind_over_all_parameters(kind, norm):
    step = loaded(
        [[3.0, 4.0], [12.0]], CLIP_GRADIENTS__CLIP_VALUE=1.0, CLIP_GRADIENTS__NORM_TYPE=kind
    )
    (first, second), _ = step()
    assert [*first, *second] == pytest.approx([3 / norm, 4 / norm, 12 / norm], rel=1e-4)


def test_a_norm_below_the_limit_stays():
    step = loaded([[3.0, 4.0]], CLIP_GRADIENTS__CLIP_VALUE=5.5)
    assert step()[0] == [[3.0, 4.0]]
    assert loaded([[3.0, 4.0]], CLIP_GRADIENTS__CLIP_VALUE=0.1, CLIP_GRADIENTS__ENABLED=False)()[
        0
    ] == [[3.0, 4.0]]


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_sgd_has_the_configs_momentum(momentum):
    step = loaded(
        [[1.0]],
        OPTIMIZER="SGD",
        BASE_LR=0.1,
        MOMENTUM=momentum,
        WEIGHT_DECAY=0.0,
        CLIP_GRADIENTS__ENABLED=False,
    )
    assert step()[1] == [[pytest.approx(-0.1)]]
    assert step()[1] == [[pytest.approx(-0.1 - 0.1 * (1 + momentum))]]


def test_adamw_is_the_default_with_decay_outside_of_the_gradient():
    model = nn.Module()
    model.register_parameter("p", nn.Parameter(torch.ones(1)))
    optimizer = build_optimizer(
        config(BASE_LR=0.1, WEIGHT_DECAY=0.5, CLIP_GRADIENTS__CLIP_VALUE=9.0), model
    )
    model.p.grad = torch.tensor([1.0])
    optimizer.step()
    assert isinstance(optimizer, torch.optim.AdamW)
    assert model.p.item() == pytest.approx(
        1 - 0.1 * 0.5 - 0.1, rel=1e-5
    )  # decay, then a step of the learning rate


def test_a_learning_rate_of_zero_is_counted():
    with pytest.raises(
        ValueError, match="CLIP_MULTIPLIER 0.0 give 14 trainable parameters a learning rate of 0"
    ):
        parameter_groups(Small(), config(CLIP_MULTIPLIER=0.0))
