"""Checkpoints: published formats load in full or not at all; saving is atomic; ours round-trip."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.modeling import build_model
from hyperclip.adapters import adapters
from hyperclip.config import load_config
from hyperclip.engine import StrictCheckpointer, load_strictly, read_checkpoint
from hyperclip.engine.published import convert_published, is_published
from hyperclip.files import write_atomically


def tiny(*overrides):
    cfg = load_config("configs/quickstart/hyperclip.yaml", ["MODEL.DEVICE", "cpu", *overrides])
    return build_model(cfg)


@pytest.mark.parametrize(
    ("config", "model"), [("vitb_384_hyperbolic", "hyperclip_vitb16"), ("vitb_384_catseg", "catseg_vitb16")]
)
def test_every_published_key_is_accounted_for(golden, config, model):
    """H0: names, shapes and what trains. The ViT-L models are loaded strictly by the tests of H4."""
    recorded = golden("reference_keys.json")["models"][model]
    state = {name: torch.empty(shape, device="meta") for name, (shape, *_) in recorded["keys"].items()}
    assert is_published(state)
    converted = convert_published(state)
    built = build_model(load_config(f"configs/{config}.yaml", ["MODEL.DEVICE", "cpu", "MODEL.CLIP_WEIGHTS", "none"]))
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in built.state_dict().items()}
    assert sum(p.numel() for p in built.parameters() if p.requires_grad) == recorded["summary"]["trainable"]
    ours = [p.numel() for p in built.parameters() if p.requires_grad]
    theirs = [math.prod(shape) for shape, _, _, trains in recorded["keys"].values() if trains]
    assert sorted(ours) == sorted(theirs)


def test_partial_and_foreign_checkpoints_list_the_keys():
    model = tiny()
    state = model.state_dict()
    before = {k: v.clone() for k, v in state.items()}
    partial = {k: v + 1 for k, v in state.items() if "decoder.classifier" not in k} | {"stranger": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"(?s)2 keys missing.*decoder.classifier.bias.*1 keys unexpected.*stranger"):
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
