"""A trained CLIP as a folder of open_clip, and CLIPer on it."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from hyperclip import load_config
from hyperclip.commands import export_clip
from hyperclip.load import build_system, load_model, load_system
from hyperclip.pretrained.clip_folder import clip_config, save_clip
from hyperclip.segmenter import Question
from hyperclip.tinyscenes.drawing import render_scene
from hyperclip.vocabulary import Vocabulary

TRAINED = "configs/quickstart/hyperclip_trained.yaml"
CPU = ["MODEL.DEVICE", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("clip") / "merged"
    export_clip.main(["--config-file", TRAINED, "--output", str(target), *CPU])
    return target


def test_it_holds_the_merged_weights(folder):
    model = load_system(load_config(TRAINED, CPU))
    content = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    assert content["model_cfg"]["embed_dim"] == 64 and not content["model_cfg"]["quick_gelu"]
    assert len(content["preprocess_cfg"]["mean"]) == 3
    original = load_config("configs/quickstart/dense_clip.yaml", CPU)
    plain = build_system(original).clip.state_dict()
    merged = open_clip.create_model(f"local-dir:{folder}").state_dict()
    assert merged.keys() == plain.keys() == model.clip.state_dict().keys()
    for name, value in model.clip.state_dict().items():
        assert torch.equal(value, merged[name]), name
    assert not torch.equal(
        merged["visual.transformer.resblocks.0.attn.in_proj_weight"],
        plain["visual.transformer.resblocks.0.attn.in_proj_weight"],
    )


def test_cliper_on_it(folder):
    keys = [*CPU, "MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED", str(folder)]
    system = load_model(load_config("configs/quickstart/cliper_on_hyperclip.yaml", keys))
    image = torch.from_numpy(render_scene("val_seen", 0)[0].transpose(2, 0, 1))
    question = Question(Vocabulary.from_text("red circle; blue star"), scores=True)
    answer = system.segment(system.encode([image])[0], question, (96, 96))
    assert answer.scores.shape == (2, 96, 96) and answer.scores.isfinite().all()
    trained = load_system(load_config(TRAINED, CPU))
    torch.testing.assert_close(system.pixel_mean, trained.pixel_mean)
    words = Vocabulary.from_text("red circle")
    one, other = system.text(system.clip, words), trained.text(trained.clip, words)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_mistakes(folder, tmp_path):
    with pytest.raises(FileExistsError, match="merged', which is there and not empty"):
        export_clip.main(["--config-file", TRAINED, "--output", str(folder), *CPU])
    cfg = load_config(TRAINED, CPU)
    with pytest.raises(ValueError, match="adapters that are not merged"):
        save_clip(load_system(cfg, merged=False), cfg, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    for name in ("hf-hub:owner/name", "efficientnet-lite0-minilm"):
        cfg.MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED = name
        with pytest.raises(ValueError, match="has no configuration in open_clip's format"):
            clip_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED = "ViT-B/16"
    assert clip_config(cfg)["embed_dim"] == 512
