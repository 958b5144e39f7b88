"""Parameter groups and schedule against the released ones; clipping; what cannot train."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.projects.deeplab import build_lr_scheduler
from hyperclip.adapters import adapters
from hyperclip.checkpoints.conversion import convert_published
from hyperclip.config.keys import load_config
from hyperclip.training.optimizer import build_optimizer, parameter_groups
from hyperclip.vocabulary import Vocabulary

QUICK = ["MODEL.DEVICE", "cpu"]


@pytest.fixture(scope="module")
def tiny():
    return build_model(load_config("configs/quickstart/hyperclip.yaml", QUICK))


def test_groups_of_the_tiny_model(tiny):
    cfg = load_config(
        "configs/quickstart/hyperclip.yaml", [*QUICK, "SOLVER.CLIP_MULTIPLIER", "0.25"]
    )
    names = {id(p): n for n, p in tiny.named_parameters()}
    groups = {names[id(g["params"][0])]: g for g in parameter_groups(tiny, cfg)}
    assert set(groups) == {n for n, p in tiny.named_parameters() if p.requires_grad}
    for name, group in groups.items():
        assert group["lr"] == pytest.approx(
            cfg.SOLVER.BASE_LR * (0.25 if name.startswith("clip.") else 1.0)
        )
        assert group["weight_decay"] == (0.0 if "norm" in name else 1e-4), name


def test_full_model_clipping(tiny):
    cfg = load_config("configs/quickstart/hyperclip.yaml", QUICK)
    optimizer = build_optimizer(cfg, tiny)
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    for p in parameters:
        p.grad = torch.full_like(p, 3.0)
    optimizer.step()
    norm = torch.stack([p.grad.norm() for p in parameters]).norm().item()
    assert norm == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["SOLVER.OPTIMIZER", "ADAM"], r"got 'ADAM', expected one of \['ADAMW', 'SGD'\]"),
        (["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value"], "CLIP_TYPE .* expected full_model"),
        (["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"], "SAMPLER_TRAIN .* evenly"),
        (["SOLVER.LR_SCHEDULER_NAME", "Linear"], r"got 'Linear', expected one of \['WarmupCos"),
        (
            ["SOLVER.CLIP_MULTIPLIER", "0.0"],
            r"CLIP_MULTIPLIER 0.0 give [\d,]+ trainable parameters a learning rate of 0",
        ),
        (["SOLVER.BASE_LR", "0.0"], "BASE_LR 0.0 and CLIP_MULTIPLIER"),
        (["SOLVER.NESTEROV", "True"], "with OPTIMIZER ADAMW .*, expected SGD"),
        (
            ["SOLVER.NESTEROV", "True", "SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", "0"],
            "expected SGD and a MOMENTUM above 0",
        ),
    ],
)
def test_unknown_choices(tiny, override, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(load_config("configs/quickstart/hyperclip.yaml", [*QUICK, *override]), tiny)


def test_nesterov(tiny):
    """The second step of SGD with momentum m along a constant gradient g is (1 + m + m^2) g with
    it, else (1 + m) g.
    """
    for nesterov, steps in (("False", 1.5), ("True", 1.75)):
        keys = {
            "OPTIMIZER": "SGD",
            "MOMENTUM": 0.5,
            "NESTEROV": nesterov,
            "WEIGHT_DECAY": 0,
            "CLIP_GRADIENTS.ENABLED": "False",
        }
        overrides = [text for key, value in keys.items() for text in (f"SOLVER.{key}", str(value))]
        cfg = load_config("configs/quickstart/hyperclip.yaml", [*QUICK, *overrides])
        layer = torch.nn.Linear(3, 1, bias=False).double()
        optimizer = build_optimizer(cfg, layer)
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()
        before = layer.weight.detach().clone()
        optimizer.step()
        torch.testing.assert_close(
            before - layer.weight, torch.full_like(before, cfg.SOLVER.BASE_LR * steps)
        )


@pytest.mark.parametrize("name", ["ADAMW", "SGD"])
def test_decay_to_identity_leaves_the_identity_alone(name):
    """Without a gradient, decay moves all weights but those of the adapters at the identity, and
    pulls these back.
    """
    keys = [
        "SOLVER.OPTIMIZER",
        name,
        "SOLVER.WEIGHT_DECAY",
        "0.1",
        "SOLVER.DECAY_TO_IDENTITY",
        "True",
        "SOLVER.BASE_LR",
        "0.1",
    ]
    model = build_model(load_config("configs/quickstart/hyperclip.yaml", [*QUICK, *keys]))
    optimizer = build_optimizer(
        load_config("configs/quickstart/hyperclip.yaml", [*QUICK, *keys]), model
    )
    blocks = [p for _, adapter in adapters(model) for p in adapter.starts_at_identity()]
    before = [p.detach().clone() for p in blocks]
    head = model.sem_seg_head.decoder.classifier.weight
    size = head.norm().item()

    def step():
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p)
        optimizer.step()

    step()
    assert blocks and head.norm().item() == pytest.approx(0.99 * size, rel=1e-5)
    for a, b in zip(blocks, before, strict=True):
        assert (a - b).abs().max() < 1e-7
    with torch.no_grad():
        blocks[0].add_(0.5)
    step()
    assert (blocks[0] - before[0] - 0.5 * 0.99).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("name", "expected"),
    [("WarmupPolyLR", [0.25, 0.6**0.9, 0.1**0.9]), ("WarmupCosineLR", [0.25, 0.6545, 0.02447])],
)
def test_schedules(tiny, name, expected):
    keys = ["SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.MAX_ITER", "10"]
    keys += ["SOLVER.WARMUP_ITERS", "4", "SOLVER.WARMUP_FACTOR", "0.25"]
    cfg = load_config("configs/quickstart/hyperclip.yaml", [*QUICK, *keys])
    optimizer = build_optimizer(cfg, tiny)
    schedule, rates = build_lr_scheduler(cfg, optimizer), []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"] / optimizer.param_groups[0]["initial_lr"])
        optimizer.step()
        schedule.step()
    assert [rates[k] for k in (0, 4, 9)] == pytest.approx(expected, rel=1e-3)
    assert rates[0] < rates[1] < rates[2] < rates[3]  # the warm-up


def test_nothing_to_train():
    cfg = load_config("configs/quickstart/dense_clip.yaml", QUICK)
    with pytest.raises(ValueError, match="has nothing to train"):
        build_optimizer(cfg, build_model(cfg))


def test_released_groups_and_schedule(golden, hyperclip_b):
    """H7: one group for each tensor, learning rates and decay, cosine to zero over 80,000
    iterations.
    """
    recorded = golden("h7_optimizer.json")["hyperclip_vitb16"]
    cfg = load_config("configs/vitb_384_hyperbolic.yaml")
    optimizer = build_optimizer(cfg, hyperclip_b)
    names = {id(p): n for n, p in hyperclip_b.named_parameters()}
    got = {names[id(g["params"][0])]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    want = {}
    for name, rate, _, decay in recorded["groups"]:
        (ours,) = convert_published({name: torch.zeros(1)})
        want[ours] = (rate, decay)
    assert set(got) == set(want)
    for name, values in want.items():
        assert got[name] == pytest.approx(values, rel=1e-9), name
    assert {k: optimizer.defaults[k] for k in ("betas", "eps")} == {
        "betas": (0.9, 0.999),
        "eps": 1e-8,
    }
    scheduler = build_lr_scheduler(cfg, optimizer)
    is_clip = [names[id(g["params"][0])].startswith("clip.") for g in optimizer.param_groups]
    for iteration, head_rate, clip_rate in recorded["schedule"]["values"]:
        scheduler.last_epoch = iteration
        expected = [clip_rate if clip else head_rate for clip in is_clip]
        assert scheduler.get_lr() == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_the_first_step_is_the_released_one(golden, fake_state, hyperclip_b, published_state):
    """H4: what AdamW behind full-model clipping changes in its first step."""
    arrays, vocabulary = (
        golden("h4_head.npz"),
        Vocabulary.from_names(golden("h_info.json")["vocabulary"]),
    )
    cfg = load_config("configs/vitb_384_hyperbolic.yaml")
    model, optimizer = hyperclip_b, build_optimizer(cfg, hyperclip_b)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    model.train_vocabulary = vocabulary
    image = torch.from_numpy(fake_state.image(384, 384, 1)).permute(2, 0, 1)
    target = torch.from_numpy(arrays["target0"].astype("int64"))
    try:
        model.train()([{"image": image, "sem_seg": target}])["loss_sem_seg"].backward()
        optimizer.step()
        changes = {
            n: (p.detach() - before[n]).flatten()
            for n, p in model.named_parameters()
            if n in before
        }
    finally:
        with torch.no_grad():
            for n, p in model.named_parameters():
                if n in before:
                    p.copy_(before[n])
        model.zero_grad(set_to_none=True)
        model.eval()
    recorded = {
        k.removeprefix("step_delta__"): v for k, v in arrays.items() if k.startswith("step_delta__")
    }
    assert len(recorded) >= 24
    for name, want in recorded.items():
        (ours,) = convert_published({name: torch.zeros(1)})
        change = changes[ours]
        rate = cfg.SOLVER.BASE_LR * (cfg.SOLVER.CLIP_MULTIPLIER if ours.startswith("clip.") else 1)
        got = change[:: max(1, len(change) // 256)][:256].numpy()
        assert abs(got - want).max() <= 2e-2 * rate, name
    norms = golden("h4_training.json")["pool2"]["norm_of_first_step"]
    assert len(norms) == len(changes)
    for name, norm in norms.items():
        (ours,) = convert_published({name: torch.zeros(1)})
        rate = cfg.SOLVER.BASE_LR * (cfg.SOLVER.CLIP_MULTIPLIER if ours.startswith("clip.") else 1)
        assert changes[ours].norm().item() == pytest.approx(
            norm, abs=2e-2 * rate * changes[ours].numel() ** 0.5
        ), name
