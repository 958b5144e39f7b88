"""The activation is that of the weights, with and without loading them; a file that does not tell
is refused.
"""

from __future__ import annotations

import json
import shutil

import open_clip
import pytest
import torch
from hyperclip.clip import activation_of, load_clip, loading
from open_clip import factory
from safetensors.torch import save_file

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 48, "head_width": 12, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}
TAGS = {"openai": True, "laion2b_s34b_b88k": False, "metaclip_400m": True}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A narrow architecture that OpenAI and others have weights of: "Tiny/16" and "Tiny-16"; gives
    its state dict.
    """
    for name, quick in (("Tiny-16", False), ("Tiny-16-quickgelu", True)):
        config = {**TINY, "quick_gelu": quick} if quick else TINY
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, config)
    tags = open_clip.pretrained._PRETRAINED
    monkeypatch.setitem(
        tags, "Tiny-16", {tag: {"url": "", "quick_gelu": quick} for tag, quick in TAGS.items()}
    )
    monkeypatch.setitem(loading.OPENAI_ARCHITECTURES, "Tiny/16", "Tiny-16")
    return open_clip.CLIP(32, TINY["vision_cfg"], TINY["text_cfg"]).state_dict()


@pytest.fixture
def plain(tiny, tmp_path):
    torch.save(tiny, tmp_path / "plain.pt")
    return str(tmp_path / "plain.pt")


@pytest.fixture
def openai(tiny, tmp_path):
    extras = {key: torch.tensor(32) for key in loading.OPENAI_EXTRAS}
    torch.save(
        {k: v.half() if v.ndim > 1 else v for k, v in (tiny | extras).items()},
        tmp_path / "openai.pt",
    )
    return str(tmp_path / "openai.pt")


def both(name, weights="", **options):
    """The activation of the loaded model, which has to be that of the one a checkpoint is loaded
    over.
    """
    loaded = activation_of(load_clip(name, weights, **options).model)
    assert activation_of(load_clip(name, weights, load=False, **options).model) == loaded
    return loaded


@pytest.mark.parametrize("name", ["Tiny/16", "Tiny-16", "Tiny-16:laion2b_s34b_b88k"])
@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_decides_whatever_the_name(tiny, monkeypatch, name, tag):
    def create(architecture, pretrained, force_quick_gelu):
        return open_clip.CLIP(32, TINY["vision_cfg"], TINY["text_cfg"], quick_gelu=force_quick_gelu)

    monkeypatch.setattr(open_clip, "create_model", create)
    assert both(name, tag) == ("quick_gelu" if TAGS[tag] else "gelu")


def test_the_content_of_a_file_decides(tiny, openai, plain):
    for name in ("Tiny/16", "Tiny-16", "Tiny-16-quickgelu"):
        assert both(name, openai) == "quick_gelu"
    assert both("Tiny-16", plain) == both("Tiny-16:laion2b_s34b_b88k", plain) == "gelu"
    assert both("Tiny-16-quickgelu", plain) == both("Tiny-16:openai", plain) == "quick_gelu"
    assert both("Tiny/16", "none") == "quick_gelu" and both("Tiny-16", "none") == "gelu"


def test_a_file_that_does_not_tell_is_refused_under_openai_s_name(tiny, plain, openai):
    for load in (True, False):
        with pytest.raises(
            ValueError, match=r"under the name 'Tiny/16' both are common. Set MODEL.CLIP_ACTIVATION"
        ):
            load_clip("Tiny/16", plain, load=load)
    assert both("Tiny/16", plain, activation="gelu") == "gelu"
    assert both("Tiny/16", plain, activation="quick_gelu") == "quick_gelu"
    with pytest.raises(
        ValueError,
        match=r"CLIP_ACTIVATION: got 'gelu', but .*openai.pt was trained with 'quick_gelu'",
    ):
        load_clip("Tiny/16", openai, activation="gelu")
    with pytest.raises(ValueError, match="got 'relu', expected one of"):
        load_clip("Tiny/16", openai, activation="relu")


@pytest.mark.parametrize("quick", [False, True])
def test_the_configuration_beside_a_file_decides(tiny, tmp_path, quick):
    save_file(
        {k: v.contiguous() for k, v in tiny.items()}, tmp_path / "open_clip_model.safetensors"
    )
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {**TINY, "quick_gelu": quick}})
    )
    want = "quick_gelu" if quick else "gelu"
    assert both("Tiny/16", str(tmp_path / "open_clip_model.safetensors")) == want
    assert both(str(tmp_path)) == both(str(tmp_path), "none") == want


def test_without_the_file_a_checkpoint_is_still_loaded_over_the_usual_model(tiny):
    assert activation_of(load_clip("Tiny/16", "gone.pt", load=False).model) == "quick_gelu"
    assert activation_of(load_clip("Tiny-16", "gone.pt", load=False).model) == "gelu"


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
def test_model_folders(tiny, tmp_path, name):
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": TINY, "preprocess_cfg": {}})
    )
    with pytest.raises(
        FileNotFoundError,
        match="has no weights: expected open_clip_model.safetensors or open_clip_pytorch_model.bin",
    ):
        load_clip(str(tmp_path))
    load_clip(str(tmp_path), load=False)
    if name.endswith(".bin"):
        torch.save(tiny, tmp_path / name)
    else:
        save_file({k: v.contiguous() for k, v in tiny.items()}, tmp_path / name)
    loaded = load_clip(str(tmp_path))
    assert loaded.source == str(tmp_path / name)
    assert all(torch.equal(v, tiny[k]) for k, v in loaded.model.state_dict().items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "open_clip_config.json' cannot be read"),
        ("[]", "cannot be read"),
        ('{"preprocess_cfg": {}}', "KeyError: 'model_cfg'"),
        ('{"model_cfg": {"embed_dim": 3}}', "KeyError: 'vision_cfg'"),
        (
            json.dumps({"model_cfg": {**TINY, "vision_cfg": {"depth": 3}}}),
            "a setting that open_clip does not know",
        ),
    ],
)
def test_broken_model_folders(tmp_path, text, message):
    (tmp_path / "open_clip_config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_clip(str(tmp_path), "none")


def test_wrapped_weights_in_a_trainer_s_file(tiny, tmp_path):
    path = tmp_path / "epoch_3.pt"
    torch.save(
        {
            "epoch": 3,
            "name": "run",
            "state_dict": {f"module.{k}": v for k, v in tiny.items()},
            "optimizer": {},
        },
        path,
    )
    own = load_clip("Tiny-16", str(path)).model.state_dict()
    assert all(torch.equal(own[k], v) for k, v in tiny.items())
    shutil.move(path, path := tmp_path / "lightning.ckpt")
    torch.save({"state_dict": {f"model._orig_mod.{k}": v for k, v in tiny.items()}}, path)
    own = load_clip("Tiny-16", str(path)).model.state_dict()
    assert all(torch.equal(own[k], v) for k, v in tiny.items())
