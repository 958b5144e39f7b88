"""Checkpoints: published formats load in full or not at all; saving is atomic; ours round-trip."""

from __future__ import annotations

import argparse
import math

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from hyperclip.adapters import adapters
from hyperclip.checkpoints import StrictCheckpointer, load_strictly, read_checkpoint
from hyperclip.checkpoints.checkpointer import check_settings
from hyperclip.checkpoints.conversion import convert_published, is_published
from hyperclip.config.keys import load_config
from hyperclip.runtime.files import write_atomically


def tiny(*overrides):
    cfg = load_config("configs/quickstart/hyperclip.yaml", ["MODEL.DEVICE", "cpu", *overrides])
    return build_model(cfg)


@pytest.mark.parametrize(
    ("config", "model"),
    [("vitb_384_hyperbolic", "hyperclip_vitb16"), ("vitb_384_catseg", "catseg_vitb16")],
)
def test_every_published_key_is_accounted_for(golden, config, model):
    """H0: names, shapes and what trains. The ViT-L models are loaded strictly by the tests of
    H4.
    """
    recorded = golden("reference_keys.json")["models"][model]
    state = {
        name: torch.empty(shape, device="meta") for name, (shape, *_) in recorded["keys"].items()
    }
    assert is_published(state)
    converted = convert_published(state)
    built = build_model(
        load_config(f"configs/{config}.yaml", ["MODEL.DEVICE", "cpu", "MODEL.CLIP_WEIGHTS", "none"])
    )
    assert {k: v.shape for k, v in converted.items()} == {
        k: v.shape for k, v in built.state_dict().items()
    }
    assert (
        sum(p.numel() for p in built.parameters() if p.requires_grad)
        == recorded["summary"]["trainable"]
    )
    ours = [p.numel() for p in built.parameters() if p.requires_grad]
    theirs = [math.prod(shape) for shape, _, _, trains in recorded["keys"].values() if trains]
    assert sorted(ours) == sorted(theirs)


def test_partial_and_foreign_checkpoints_list_the_keys():
    model = tiny()
    state = model.state_dict()
    before = {k: v.clone() for k, v in state.items()}
    partial = {k: v + 1 for k, v in state.items() if "decoder.classifier" not in k} | {
        "stranger": torch.zeros(1)
    }
    with pytest.raises(
        ValueError,
        match=r"(?s)2 keys missing.*decoder.classifier.bias.*1 keys unexpected.*stranger",
    ):
        load_strictly(model, partial, "file")
    for k, v in model.state_dict().items():
        assert torch.equal(v, before[k])  # nothing was loaded
    other = tiny("MODEL.SEM_SEG_HEAD.HIDDEN_DIMS", "64").state_dict()
    with pytest.raises(ValueError, match="of another shape: sem_seg_head"):
        load_strictly(model, other, "file")
    unadapted = tiny("MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", "none").state_dict()
    with pytest.raises(ValueError, match="CLIP_FINETUNE"):
        load_strictly(model, unadapted, "file")


def test_round_trip_through_a_file(tmp_path):
    model = tiny()
    with torch.no_grad():
        for _, module in adapters(model):
            for p in module.parameters():
                p.add_(torch.randn_like(p))
    StrictCheckpointer(model, str(tmp_path)).save("model_final", iteration=7)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["last_checkpoint", "model_final.pth"]
    other = tiny()
    loaded = StrictCheckpointer(other).load(str(tmp_path / "model_final.pth"))
    assert loaded["iteration"] == 7
    for k, v in model.state_dict().items():
        assert torch.equal(v, other.state_dict()[k])


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        StrictCheckpointer(tiny()).load(str(tmp_path / "none.pth"))
    cut = tmp_path / "cut.pth"
    torch.save({"model": {"a": torch.zeros(1000)}}, cut)
    cut.write_bytes(cut.read_bytes()[:900])
    with pytest.raises(ValueError, match="cut short"):
        read_checkpoint(cut)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "model.pth"
    target.write_text("old")

    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, fail)
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["model.pth"]


OTHER_SETTINGS = {
    "MODEL.CLIP_ACTIVATION": (
        "quick_gelu",
        "MODEL.CLIP_ACTIVATION is 'quick_gelu' there and 'gelu' here",
    ),
    "MODEL.ADAPTER.CURVATURE_TEXT": (
        "0.5",
        r"RadiusAdjustment, text\) curvature is 0.5 there and 1.0 here",
    ),
    "MODEL.SEM_SEG_HEAD.NUM_HEADS": ("2", "MODEL.SEM_SEG_HEAD.NUM_HEADS is 2 there and 4 here"),
    "MODEL.SEM_SEG_HEAD.CLIP_LAYERS": (
        "[0, 2]",
        r"CLIP_LAYERS is \[0, 2\] there and \[\d, \d\] here",
    ),
    "MODEL.CLIP_PIXEL_MEAN": ("[1.0, 2.0, 3.0]", r"CLIP_PIXEL_MEAN is \[1.0, 2.0, 3.0\] there"),
}


@pytest.mark.parametrize("key", OTHER_SETTINGS)
def test_settings_that_no_parameter_tells_are_checked(tmp_path, key):
    value, message = OTHER_SETTINGS[key]
    names = ("model_best", "model_final")
    trained = tiny("MODEL.CLIP_WEIGHTS", "none", key, value)
    StrictCheckpointer(trained, str(tmp_path)).save(names[0], tag=False)
    StrictCheckpointer(trained, str(tmp_path)).save(names[1])
    other = tiny()
    before = {k: v.clone() for k, v in other.state_dict().items()}
    for name in names:
        with pytest.raises(ValueError, match=message) as error:
            StrictCheckpointer(other).load(str(tmp_path / f"{name}.pth"))
        assert "\n" not in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
    again = tiny("MODEL.WEIGHTS", "x.pth", key, value)
    StrictCheckpointer(again).load(str(tmp_path / "model_final.pth"))
    assert all(torch.equal(v, trained.state_dict()[k]) for k, v in again.state_dict().items())


def test_checkpoints_without_settings(tmp_path):
    model = tiny()
    torch.save({"model": model.state_dict()}, tmp_path / "early.pth")
    StrictCheckpointer(model).load(str(tmp_path / "early.pth"))
    published = {
        "sem_seg_head.predictor.clip_model.visual.conv1.weight": torch.zeros(768, 3, 16, 16)
    }
    with pytest.raises(ValueError, match="CLIP_ACTIVATION is 'quick_gelu' there and 'gelu' here"):
        check_settings(model, {f"module.{k}": v for k, v in published.items()}, None, "file")
    # of open_clip
    check_settings(model, {k: v.repeat(2, 1, 1, 1) for k, v in published.items()}, None, "file")
    check_settings(
        tiny("MODEL.CLIP_WEIGHTS", "none", "MODEL.CLIP_ACTIVATION", "quick_gelu"),
        published,
        None,
        "file",
    )


@pytest.mark.parametrize("container", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["model.", "_orig_mod.module.", "model._orig_mod."])
def test_checkpoints_of_other_trainers(tmp_path, container, prefix):
    trained = tiny()
    with torch.no_grad():
        trained.sem_seg_head.decoder.classifier.bias.add_(3)
    state = {prefix + k: v for k, v in trained.state_dict().items()}
    torch.save(
        {container: state, "best": np.float32(3), "args": argparse.Namespace(out=tmp_path)},
        tmp_path / "last.ckpt",
    )
    model = tiny()
    StrictCheckpointer(model).load(str(tmp_path / "last.ckpt"))
    assert all(torch.equal(v, trained.state_dict()[k]) for k, v in model.state_dict().items())
